// Fuzzes preprocess() of interleaved images and the conversion of NV12 and P010 frames on the CPU.
#include "image_properties.h"
#include "spoiled_cases.h"

namespace {

// The sides of an image: small ones, and now and then a long or a large one.
int side(Random& random) { return random.chance(32) ? random.integer(1, 3000) : random.integer(1, 40); }

void run_image(Random& random) {
  int height = side(random), width = side(random), resized_height = side(random), resized_width = side(random);
  if (int64_t{height} * width > 20000) width = 1 + 20000 / height;
  if (int64_t{resized_height} * resized_width > 20000) resized_width = 1 + 20000 / resized_height;
  PreprocessCase made = make_preprocess(random, height, width, resized_height, resized_width);
  if (!random.chance(6)) {
    run(made);
    return;
  }
  std::vector<float> output(size_t{3} * static_cast<size_t>(made.options.padded_height * made.options.padded_width));
  spoil(random, made);
  check_refused("", [&] { retinasdk::preprocess(made.view, made.options, output.data()); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  Random random(bytes, count);
  if (random.chance(3)) {
    const FrameCase made = make_frame(random);
    std::vector<uint8_t> rgb(static_cast<size_t>(3 * made.view.height * made.view.width));
    retinasdk::yuv_to_rgb(made.view, rgb.data());
    retinasdk::YuvView spoiled = made.view;
    switch (random.integer(0, 3)) {
      case 0:
        spoiled.format = retinasdk::PixelFormat::kInterleaved;
        break;
      case 1:
        spoiled.height = random.outside(1, 65536);
        break;
      case 2:
        spoiled.width = random.outside(1, 65536);
        break;
      default:
        ++spoiled.height;
    }
    check_refused("", [&] { retinasdk::yuv_to_rgb(spoiled, rgb.data()); });
  } else {
    run_image(random);
  }
  return 0;
}
