// Compares the preprocessing on the emulated device with that on the CPU: equal bit by bit.
#pragma once

#include <cuda_fp16.h>

#include "parity_support.h"

// Compares the preprocessing of an image with that of the same image in RGB on the CPU.
inline void check_image(const cuda::DeviceImage& image, const retinasdk::ImageView& rgb,
                        const retinasdk::PreprocessOptions& options) {
  const size_t values = size_t{3} * static_cast<size_t>(options.padded_height * options.padded_width);
  std::vector<float> theirs(values);
  retinasdk::preprocess(rgb, options, theirs.data());
  cuda::DevicePreprocessOptions device{options.resized_height,
                                       options.resized_width,
                                       options.padded_height,
                                       options.padded_width,
                                       {},
                                       {},
                                       options.reverse_channels,
                                       options.antialias,
                                       cuda::Scalar::kFloat32,
                                       options.source_step,
                                       options.eight_bit};
  std::memcpy(device.mean, options.mean, sizeof device.mean);
  std::memcpy(device.std, options.std, sizeof device.std);
  const Scratch scratch(cuda::preprocess_scratch_bytes(image, device));
  std::vector<float> ours(values);
  cuda::preprocess(image, device, ours.data(), scratch, nullptr);
  check(same_bytes(ours, theirs, 0, values), "the preprocessed images are equal");
  device.output = cuda::Scalar::kFloat16;
  std::vector<__half> halves(values);
  cuda::preprocess(image, device, halves.data(), scratch, nullptr);
  for (size_t i = 0; i < values; ++i) {
    check(__half2float(halves[i]) == __half2float(__float2half_rn(theirs[i])),
          "the preprocessed float16 images are equal");
  }
}

inline void check_preprocess(const PreprocessCase& made) {
  check_image({retinasdk::PixelFormat::kInterleaved, made.view.pixels, made.view.row_bytes, nullptr, 0,
               made.view.height, made.view.width},
              made.view, made.options);
}

inline void check_camera_frame(Random& random) {
  const FrameCase made = make_frame(random);
  const retinasdk::YuvView& frame = made.view;
  std::vector<uint8_t> rgb(static_cast<size_t>(3 * frame.height * frame.width));
  retinasdk::yuv_to_rgb(frame, rgb.data());
  const cuda::DeviceImage image{frame.format,           frame.luma,   frame.luma_row_bytes, frame.chroma,
                                frame.chroma_row_bytes, frame.height, frame.width,          frame.matrix,
                                frame.full_range};
  const PreprocessCase options = make_preprocess(random, 1, 1, random.integer(1, 40), random.integer(1, 40));
  check_image(image, {rgb.data(), frame.height, frame.width, 3 * frame.width}, options.options);
}
