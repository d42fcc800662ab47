// Compares what is done to blocked images between convolutions with plain loops over planar images.
#pragma once

#include <algorithm>
#include <vector>

#include "convolution/layout.h"
#include "convolution_properties.h"
#include "tested_kernels.h"

namespace blocked_layouts {

using namespace convolution_tests;
using retinasdk::Addition;
using retinasdk::Window;
using retinasdk::convolution::Kernels;

inline Image any_image(Random& random, bool small) {
  const int side = small ? 12 : random.chance(6) ? 200 : 30;
  return make_image(random, random.integer(1, 3), random.integer(1, small ? 20 : 40), random.integer(1, side),
                    random.integer(1, side));
}

// Some values that are not finite, which a change of the layout keeps.
inline void spoil(Random& random, std::vector<float>& values) {
  for (int i = random.integer(0, 5); i > 0; --i) {
    values[static_cast<size_t>(random.integer(0, static_cast<int>(values.size()) - 1))] = random.hostile();
  }
}

inline void check_layouts(Random& random, const Kernels& kernels, bool small) {
  Image image = any_image(random, small);
  spoil(random, image.values);
  Buffer blocked(image.blocked_size()), planar(image.size());
  retinasdk::to_blocked(image.values.data(), image.batch, image.channels, image.height, image.width, blocked.data(),
                        in_threads(2), kernels);
  check(same_bits(blocked.checked(), image.blocked()), "to_blocked keeps all values and fills up with zeros");
  retinasdk::from_blocked(blocked.data(), image.batch, image.channels, image.height, image.width, planar.data(),
                          in_threads(2), kernels);
  check(same_bits(planar.checked(), image.values), "from_blocked keeps all values");
}

inline void check_pool(Random& random, const Kernels& kernels, bool small) {
  const Image image = any_image(random, small);
  Window window;
  window.height = random.integer(1, std::min(5, image.height)),
  window.width = random.integer(1, std::min(5, image.width));
  window.stride_y = random.integer(1, 3), window.stride_x = random.integer(1, 3);
  window.top = random.integer(0, window.height - 1), window.bottom = random.integer(0, window.height - 1);
  window.left = random.integer(0, window.width - 1), window.right = random.integer(0, window.width - 1);
  Image wanted(image.batch, image.channels, window.out_height(image.height), window.out_width(image.width));
  wanted.for_each([&](int n, int c, int y, int x) {
    float largest = -kInfinity;
    for (int ky = 0; ky < window.height; ++ky) {
      for (int kx = 0; kx < window.width; ++kx) {
        const int in_y = y * window.stride_y - window.top + ky, in_x = x * window.stride_x - window.left + kx;
        if (in_y < 0 || in_y >= image.height || in_x < 0 || in_x >= image.width) continue;
        largest = std::max(largest, image.values[image.at(n, c, in_y, in_x)]);
      }
    }
    wanted.values[wanted.at(n, c, y, x)] = largest;
  });
  Buffer output(wanted.blocked_size());
  retinasdk::max_pool(image.blocked().data(), image.batch, image.channels, image.height, image.width, window,
                      output.data(), in_threads(2), kernels);
  check(same_bits(output.checked(), wanted.blocked()), "max_pool finds the largest values");
}

inline void check_addition(Random& random, const Kernels& kernels, bool small) {
  const Image image = any_image(random, small);
  const Addition addition = random.chance(2) ? Addition::kSame : Addition::kUpsampled;
  const bool same = addition == Addition::kSame;
  const Image added =
      make_image(random, image.batch, image.channels, same ? image.height : random.integer(1, image.height + 3),
                 same ? image.width : random.integer(1, image.width + 3));
  const retinasdk::Clamp clamp{random.chance(2) ? 0.0f : -kInfinity, random.chance(2) ? 0.5f : kInfinity};
  Image wanted(image.batch, image.channels, image.height, image.width);
  wanted.for_each([&](int n, int c, int y, int x) {
    const int from_y = y * added.height / image.height, from_x = x * added.width / image.width;
    const float sum = image.values[image.at(n, c, y, x)] + added.values[added.at(n, c, from_y, from_x)];
    wanted.values[wanted.at(n, c, y, x)] = std::min(std::max(sum, clamp.low), clamp.high);
  });
  Buffer output(wanted.blocked_size());
  retinasdk::add_blocked(image.blocked().data(), image.batch, image.channels, image.height, image.width, addition,
                         added.blocked().data(), added.height, added.width, clamp, output.data(), in_threads(2),
                         kernels);
  Image found = wanted;
  found.take_blocked(output.checked());
  check(found.values == wanted.values, "add_blocked adds and limits");
}

inline void check_random(Random& random, bool small = false) {
  for (const Kernels* kernels : convolution_tests::float_kernels()) {
    check_layouts(random, *kernels, small);
    check_pool(random, *kernels, small);
    check_addition(random, *kernels, small);
  }
}

inline void check_refusals() {
  const std::vector<float> image(64);
  std::vector<float> output(64);
  const auto pool = [&](const Window& window) {
    retinasdk::max_pool(image.data(), 1, 16, 2, 2, window, output.data(), in_threads(1));
  };
  Window window;
  window.height = window.width = 2;
  window.top = 2;
  check_refused("less than the window", [&] { pool(window); });
  window.top = 0;
  window.stride_y = 0;
  check_refused("strides must be", [&] { pool(window); });
  window.stride_y = 1;
  window.width = 3;
  check_refused("an image of 2 x 2 pixels is smaller than the window", [&] { pool(window); });
}

}  // namespace blocked_layouts
