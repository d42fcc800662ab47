// Fuzzes every suppression on the CPU with boxes that decode() never gives: NMS, soft NMS, weighted boxes fusion, and
// the NMS of rotated boxes.
#include "detection_properties.h"
#include "fuzz_target.h"
#include "spoiled_cases.h"

namespace {

// Calls each suppression with what `made` says and `rules`, of which something is forbidden. The outputs have room for
// the case that was not spoiled.
void refuse_all(CandidatesCase& made, const OverlapRules& rules, size_t batch, size_t room) {
  const retinasdk::Candidates candidates = made.candidates();
  std::vector<int32_t> kept(batch * room), counts(batch), class_ids(batch * room);
  std::vector<float> boxes(4 * batch * room), scores(batch * room);
  check_refused("", [&] { retinasdk::nms(made.batch, candidates, made.nms, kept.data(), counts.data()); });
  check_refused("",
                [&] { retinasdk::rotated_nms(made.batch, candidates, made.nms, true, kept.data(), counts.data()); });
  check_refused("", [&] {
    retinasdk::soft_nms(made.batch, candidates, rules.soft(made.nms), kept.data(), counts.data(), scores.data());
  });
  check_refused("", [&] {
    retinasdk::fuse(made.batch, candidates, rules.fusion(made.nms),
                    {boxes.data(), scores.data(), class_ids.data(), counts.data()});
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  Random random(bytes, count);
  CandidatesCase made = make_candidates(random, sizes(random));
  const OverlapRules rules = make_rules(random, kManyClasses);
  if (!random.chance(6)) {
    run(made, rules);
    return 0;
  }
  const auto batch = static_cast<size_t>(made.batch), room = static_cast<size_t>(made.nms.max_detections);
  spoil_suppression(random, made);
  refuse_all(made, rules, batch, room);
  return 0;
}
