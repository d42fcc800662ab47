// Differential: every suppression of the same boxes by the CUDA kernels, on the emulated device, and by the CPU.
#include "parity_detections.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  Random random(bytes, count);
  // Above 1024 candidates NMS has more kernels, which take the emulation seconds.
  CandidatesCase made = make_candidates(random, Most{6, 6, 30, random.chance(64) ? 1300 : 40});
  const int rule = made.rotated || static_cast<size_t>(made.capacity) > kManyCandidates ? 0 : random.integer(0, 2);
  const OverlapRules rules = make_rules(random, kManyClasses);
  if (rule == 0) check_nms(made);
  if (rule == 1) check_soft_nms(made.batch, made.candidates(), rules.soft(made.nms));
  if (rule == 2) check_fusion(made.batch, made.candidates(), rules.fusion(made.nms));
  return 0;
}
