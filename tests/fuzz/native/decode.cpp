// Fuzzes decode() of upright and of rotated boxes on the CPU, and the NMS behind it.
#include "detection_properties.h"
#include "fuzz_target.h"
#include "spoiled_cases.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  Random random(bytes, count);
  if (random.chance(4)) {
    run_rotated(make_rotated(random), random);
    return 0;
  }
  HeadsCase made = make_heads(random, sizes(random));
  if (!random.chance(6)) {
    run(made);
    return 0;
  }
  auto capacity = static_cast<int>(retinasdk::candidate_limit(made.levels.size(), made.options));
  std::vector<float> boxes(static_cast<size_t>(4 * capacity * made.options.batch));
  std::vector<float> logits(boxes.size() / 4);
  std::vector<int32_t> class_ids(logits.size()), counts(static_cast<size_t>(made.options.batch));
  spoil_decode(random, made, capacity);
  check_refused("", [&] {
    retinasdk::decode(made.levels, made.options, made.clip_sizes.data(),
                      {boxes.data(), logits.data(), class_ids.data(), counts.data(), capacity});
  });
  return 0;
}
