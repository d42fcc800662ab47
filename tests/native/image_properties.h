// Runs the preprocessing on the CPU and checks what holds for every input.
#pragma once

#include <vector>

#include "check.h"
#include "random_cases.h"

// Preprocesses an image and checks the result.
inline std::vector<float> run(const PreprocessCase& made, int threads = 1) {
  const retinasdk::PreprocessOptions& options = made.options;
  std::vector<float> canvas(size_t{3} * static_cast<size_t>(options.padded_height * options.padded_width), kNan);
  retinasdk::preprocess(made.view, options, canvas.data(), threads);
  size_t at = 0;
  for (int c = 0; c < 3; ++c) {
    const float lowest = -options.mean[c] / options.std[c] - 1e-4f;
    const float highest = (255.0f - options.mean[c]) / options.std[c] + 1e-4f;
    for (int y = 0; y < options.padded_height; ++y) {
      for (int x = 0; x < options.padded_width; ++x, ++at) {
        const bool inside = y < options.resized_height && x < options.resized_width;
        if (inside) check(canvas[at] >= lowest && canvas[at] <= highest, "outputs lie in the range of the pixels");
        if (!inside) check(canvas[at] == 0.0f, "padding is 0");
      }
    }
  }
  return canvas;
}
