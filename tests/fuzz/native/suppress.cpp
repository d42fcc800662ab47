// Fuzzes every suppression on the CPU with boxes that decode() never gives: NMS, soft NMS, weighted boxes fusion, and
// the NMS of rotated boxes.
#include "detection_properties.h"
#include "fuzz_target.h"
#include "spoiled_cases.h"

namespace {

// The outputs of any suppression. They have room for the case before something was spoiled.
struct Outputs {
  std::vector<int32_t> kept, counts, class_ids;
  std::vector<float> boxes, scores;

  Outputs(size_t batch, size_t room)
      : kept(batch * room), counts(batch), class_ids(batch * room), boxes(4 * batch * room), scores(batch * room) {}

  void soft_nms(CandidatesCase& made, const OverlapRules& rules) {
    retinasdk::soft_nms(made.batch, made.candidates(), rules.soft(made.nms), kept.data(), counts.data(), scores.data());
  }
  void fuse(CandidatesCase& made, const OverlapRules& rules) {
    retinasdk::fuse(made.batch, made.candidates(), rules.fusion(made.nms),
                    {boxes.data(), scores.data(), class_ids.data(), counts.data()});
  }
};

// Calls each suppression with a case that is forbidden.
void refuse_case(CandidatesCase& made, const OverlapRules& rules, Outputs& outputs) {
  int32_t *kept = outputs.kept.data(), *counts = outputs.counts.data();
  check_refused("", [&] { retinasdk::nms(made.batch, made.candidates(), made.nms, kept, counts); });
  check_refused("", [&] { retinasdk::rotated_nms(made.batch, made.candidates(), made.nms, true, kept, counts); });
  check_refused("", [&] { outputs.soft_nms(made, rules); });
  check_refused("", [&] { outputs.fuse(made, rules); });
}

// Spoils one of the rules and calls those that have it.
void refuse_rules(CandidatesCase& made, OverlapRules rules, Outputs& outputs, Random& random) {
  const int kind = random.integer(0, 2);
  if (kind == 0) rules.sigma = not_positive(random);
  if (kind == 1) rules.models = random.outside(1, retinasdk::kMaxPerImage);
  if (kind == 2) rules.classes = random.outside(1, 65536);
  if (kind != 1) check_refused("", [&] { outputs.soft_nms(made, rules); });
  if (kind != 0) check_refused("", [&] { outputs.fuse(made, rules); });
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
  Outputs outputs(static_cast<size_t>(made.batch), static_cast<size_t>(made.nms.max_detections));
  if (random.chance(2)) {
    refuse_rules(made, rules, outputs, random);
    return 0;
  }
  spoil_suppression(random, made);
  refuse_case(made, rules, outputs);
  return 0;
}
