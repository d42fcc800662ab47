// Differential: every suppression of the same boxes by the CUDA kernels, on the emulated device, and by the CPU.
#include "fuzz_target.h"
#include "parity_detections.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  Random random(bytes, count);
  CandidatesCase made = make_candidates(random, sizes(random));
  check_nms(made);
  if (made.rotated || static_cast<size_t>(made.capacity) > kManyCandidates) return 0;
  const OverlapRules rules = make_rules(random, kManyClasses);
  check_soft_nms(made.batch, made.candidates(), rules.soft(made.nms));
  check_fusion(made.batch, made.candidates(), rules.fusion(made.nms));
  return 0;
}
