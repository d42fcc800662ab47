// Differential: decode(), NMS, soft NMS and fusion of the same heads by the CUDA kernels, on the emulated device, and
// by the CPU. Both layouts, float32 and float16, upright and rotated boxes.
#include "fuzz_target.h"
#include "parity_detections.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  Random random(bytes, count);
  const int padding = random.integer(-1, 9);
  if (random.chance(4)) {
    check_rotated(make_rotated(random), std::max(0, padding));
    return 0;
  }
  HeadsCase made = make_heads(random, sizes(random));
  if (random.chance(6)) {  // Anchors and strides come from a file, which may say anything.
    const auto level = static_cast<size_t>(random.integer(0, static_cast<int>(made.levels.size()) - 1));
    made.base_anchors[level][static_cast<size_t>(random.integer(0, 3))] = random.hostile();
    made.levels[level].stride_x = random.hostile();
  }
  if (random.chance(4)) {
    check_overlap_rules(made);
  } else {
    check_decoded(made, random.chance(2), padding);
  }
  return 0;
}
