// Fuzzes the convolutions and the changes of the layout, with all kernels of this machine.
#include "blocked_layouts.h"
#include "depthwise_blocks.h"
#include "direct_convolutions.h"
#include "winograd_convolutions.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  Random random(bytes, count);
  switch (random.integer(0, 5)) {
    case 0:
      direct_convolutions::check_product(random);
      break;
    case 1:
      direct_convolutions::check_random(random, true);
      break;
    case 2:
      direct_convolutions::check_not_finite(random);
      break;
    case 3:
      winograd_tests::check_random(random, true);
      break;
    case 4:
      depthwise_blocks::check_random(random, 12);
      break;
    default:
      blocked_layouts::check_random(random, true);
      break;
  }
  return 0;
}
