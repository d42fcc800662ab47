// Differential: the preprocessing of the same images and camera frames by the CUDA kernels, on the emulated device, and
// by the CPU. float32 and float16.
#include "parity_images.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  Random random(bytes, count);
  const int most = random.chance(16) ? 40 : 12;
  if (random.chance(2)) {
    check_camera_frame(random);
  } else {
    const auto side = [&] { return random.integer(1, most); };
    const int height = side(), width = side(), resized_height = side(), resized_width = side();
    check_preprocess(make_preprocess(random, height, width, resized_height, resized_width));
  }
  return 0;
}
