// Compares direct convolutions, and the product that all convolutions rest on, with sums in float64 over planar images.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "convolution/direct_conv.h"
#include "convolution_properties.h"
#include "tested_kernels.h"

namespace direct_convolutions {

using namespace convolution_tests;
using retinasdk::Addition;
using retinasdk::Clamp;
using retinasdk::DirectConv;
using retinasdk::DirectWeights;
using retinasdk::Layout;
using retinasdk::Window;
using retinasdk::convolution::Kernels;
using retinasdk::convolution::Product;

struct Case {
  int out = 0;
  Window window;
  Clamp clamp;
  Addition addition = Addition::kNone;
  Layout input_layout = Layout::kBlocked, output_layout = Layout::kBlocked;
  Image input, added;
  std::vector<float> weights, bias;  // The bias may be empty.
};

// -- the reference ---------------------------------------------------------------------------------------------------

struct Sum {
  double value = 0, terms = 0;

  void add(double term) {
    value += term;
    terms += std::fabs(term);
  }
};

inline Sum reference(const Case& made, const Image& output, int n, int c, int y, int x) {
  const Window& window = made.window;
  Sum sum;
  if (!made.bias.empty()) sum.add(made.bias[static_cast<size_t>(c)]);
  for (int i = 0; i < made.input.channels; ++i) {
    for (int ky = 0; ky < window.height; ++ky) {
      for (int kx = 0; kx < window.width; ++kx) {
        const int in_y = y * window.stride_y - window.top + ky, in_x = x * window.stride_x - window.left + kx;
        if (in_y < 0 || in_y >= made.input.height || in_x < 0 || in_x >= made.input.width) continue;
        const size_t weight =
            ((static_cast<size_t>(c) * made.input.channels + i) * window.height + ky) * window.width + kx;
        sum.add(double{made.input.values[made.input.at(n, i, in_y, in_x)]} * made.weights[weight]);
      }
    }
  }
  if (made.addition != Addition::kNone) {
    const int added_y = y * made.added.height / output.height, added_x = x * made.added.width / output.width;
    sum.add(made.added.values[made.added.at(n, c, added_y, added_x)]);
  }
  return sum;
}

// -- random cases ----------------------------------------------------------------------------------------------------

inline Window make_window(Random& random) {
  Window window;
  if (random.chance(3)) return window;  // 1x1
  const bool usual = random.chance(2);
  window.height = usual ? 3 + 2 * random.integer(0, 2) : random.integer(1, 5);
  window.width = usual ? window.height : random.integer(1, 5);
  window.stride_y = random.integer(1, usual ? 2 : 4);
  window.stride_x = usual ? window.stride_y : random.integer(1, 4);
  const bool padded = random.chance(2);
  const auto padding = [&](int side) { return usual ? side / 2 : padded ? random.integer(0, side + 1) : 0; };
  window.top = padding(window.height), window.bottom = padding(window.height);
  window.left = padding(window.width), window.right = padding(window.width);
  return window;
}

inline Clamp make_clamp(Random& random) {
  Clamp clamp;
  if (random.chance(2)) clamp.low = random.chance(2) ? 0.0f : random.real(-2, 0);
  if (random.chance(3)) clamp.high = random.real(0, 2);
  return clamp;
}

// small: for fuzzers, which run many cases.
inline Case make_case(Random& random, bool small) {
  Case made;
  made.window = make_window(random);
  const int side = small ? 12 : random.chance(4) ? 70 : 24;
  const int height = std::max(random.integer(1, side), made.window.height - made.window.top - made.window.bottom);
  const int width = std::max(random.integer(1, side), made.window.width - made.window.left - made.window.right);
  made.out = random.integer(1, small ? 40 : random.chance(6) ? 160 : 70);
  const int in = random.integer(1, small ? 20 : random.chance(10) ? 300 : 50);
  if (random.chance(4)) made.input_layout = Layout::kPlanar;
  if (random.chance(4)) made.output_layout = Layout::kPlanar;
  made.clamp = make_clamp(random);
  made.addition = static_cast<Addition>(random.integer(0, 2));
  made.input = make_image(random, random.integer(1, small ? 2 : 3), in, height, width);
  const int out_height = made.window.out_height(height), out_width = made.window.out_width(width);
  const bool same = made.addition != Addition::kUpsampled;
  made.added = make_image(random, made.input.batch, made.out, same ? out_height : random.integer(1, out_height + 2),
                          same ? out_width : random.integer(1, out_width + 2));
  made.weights = values(random, static_cast<size_t>(made.out) * in * made.window.height * made.window.width);
  if (random.chance(2)) made.bias = values(random, static_cast<size_t>(made.out));
  return made;
}

// -- convolutions ----------------------------------------------------------------------------------------------------

// Returns the output, planar.
inline Image run(const Case& made, const Kernels& kernels, const retinasdk::ParallelFor& parallel_for) {
  const auto weights = std::make_shared<const DirectWeights>(made.weights.data(), made.out, made.input.channels,
                                                             made.window.height, made.window.width, made.input_layout);
  const DirectConv conv(weights, made.bias.empty() ? nullptr : made.bias.data(), made.window, made.clamp, made.addition,
                        made.output_layout, kernels);
  const Image& in = made.input;
  Image out(in.batch, made.out, made.window.out_height(in.height), made.window.out_width(in.width));
  const std::vector<float> input = made.input_layout == Layout::kPlanar ? in.values : in.blocked();
  const std::vector<float> added = made.added.blocked();
  Buffer scratch(conv.scratch_floats(in.batch, in.height, in.width));
  Buffer output(made.output_layout == Layout::kPlanar ? out.size() : out.blocked_size());
  retinasdk::ConvCall call;
  call.batch = in.batch, call.height = in.height, call.width = in.width;
  call.input = input.data();
  if (made.addition != Addition::kNone) call.added = added.data();
  call.added_height = made.added.height, call.added_width = made.added.width;
  call.output = output.data(), call.scratch = scratch.data();
  conv.run(call, parallel_for);
  scratch.checked();
  if (made.output_layout == Layout::kPlanar) {
    out.values = output.checked();
  } else {
    out.take_blocked(output.checked());
  }
  return out;
}

inline void check_case(const Case& made, const Image& output) {
  output.for_each([&](int n, int c, int y, int x) {
    const Sum sum = reference(made, output, n, c, y, x);
    check_close(output.values[output.at(n, c, y, x)], limited(sum.value, made.clamp), sum.terms,
                "a direct convolution is close to the sums in float64");
  });
}

inline void check_random(Random& random, bool small = false) {
  const Case made = make_case(random, small);
  for (const Kernels* kernels : convolution_tests::float_kernels()) {
    const Image output = run(made, *kernels, in_threads(1));
    check_case(made, output);
    for (const int threads : {1, 2, 5}) {
      check(same_bits(output.values, run(made, *kernels, in_threads(threads, 7)).values),
            "the number of threads does not change a direct convolution");
    }
  }
}

// NaN and infinity arrive where they belong, and nowhere else.
inline void check_not_finite(Random& random) {
  Case made = make_case(random, true);
  made.out = retinasdk::blocks_of(made.out) *
             kBlock;  // A channel that fills a block up is infinity * 0 here, and not looked at.
  made.weights =
      values(random, static_cast<size_t>(made.out) * made.input.channels * made.window.height * made.window.width);
  made.added = make_image(random, made.input.batch, made.out, made.added.height, made.added.width);
  if (!made.bias.empty()) made.bias = values(random, static_cast<size_t>(made.out));
  for (int i = random.integer(1, 4); i > 0; --i) {
    const auto at = static_cast<size_t>(random.integer(0, static_cast<int>(made.input.values.size()) - 1));
    made.input.values[at] = random.chance(2) ? kNan : random.chance(2) ? kInfinity : -kInfinity;
  }
  for (const Kernels* kernels : convolution_tests::float_kernels()) {
    check_case(made, run(made, *kernels, in_threads(1)));
  }
}

inline void check_refusals() {
  const std::vector<float> weights(64);
  const auto make = [&](int out, int in, int height, int width) {
    return std::make_shared<const DirectWeights>(weights.data(), out, in, height, width, Layout::kBlocked);
  };
  check_refused("channels must be 1 to 65536, got 0 out, 8 in", [&] { make(0, 8, 1, 1); });
  check_refused("must have 1 to 31 rows and columns, got 1 x 32", [&] { make(1, 1, 1, 32); });
  const auto convolve = [&](const Window& window, int side) {
    const DirectConv conv(make(1, 1, 3, 3), nullptr, window, {}, Addition::kNone, Layout::kBlocked);
    conv.scratch_floats(1, side, side);
  };
  Window window;
  check_refused("the window is 1 x 1, but the weights are 3 x 3", [&] { convolve(window, 9); });
  window.height = window.width = 3;
  check_refused("an image of 2 x 2 pixels is smaller than the window", [&] { convolve(window, 2); });
  window.stride_x = 0;
  check_refused("strides must be", [&] { convolve(window, 9); });
  window.stride_x = 1;
  window.left = -1;
  check_refused("padding must be", [&] { convolve(window, 9); });
}

// -- products --------------------------------------------------------------------------------------------------------

// The sums are right for any steps, and do not depend on how the pixels are divided into calls.
inline void check_product(Random& random) {
  const bool planar = random.chance(4);
  const int lanes = planar ? 1 : kBlock;
  Product product{};
  product.count = random.integer(1, 60);
  product.in_blocks = random.integer(1, 4);
  product.out_blocks = random.integer(1, 5);
  product.in_pixel_step = random.integer(0, 40);
  product.in_block_step = random.integer(0, 100);
  std::vector<std::ptrdiff_t> taps(static_cast<size_t>(random.integer(1, 5)));
  for (std::ptrdiff_t& tap : taps) tap = random.integer(0, 200);
  product.taps = taps.data();
  product.tap_count = static_cast<int>(taps.size());
  const std::vector<float> input = values(random, 200 + 3 * 100 + 59 * 40 + kBlock);
  const std::vector<float> weights =
      values(random, static_cast<size_t>(product.out_blocks) * taps.size() * product.in_blocks * lanes * kBlock);
  const std::vector<float> bias = values(random, static_cast<size_t>(product.out_blocks) * kBlock);
  product.input = input.data(), product.weights = weights.data();
  if (random.chance(2)) product.bias = bias.data();
  product.out_pixel_step = kBlock + random.integer(0, 3);
  product.out_block_step = product.out_pixel_step * product.count + random.integer(0, 9);
  const std::vector<float> added = values(random, 59 * 20 + 4 * 30 + kBlock);
  product.added_pixel_step = random.integer(0, 20), product.added_block_step = random.integer(0, 30);
  if (random.chance(2)) product.added = added.data();
  product.clamp = make_clamp(random);
  const auto outputs = static_cast<size_t>(product.out_block_step * product.out_blocks);

  for (const Kernels* kernels : convolution_tests::float_kernels()) {
    const auto multiply = planar ? kernels->multiply.multiply_planar : kernels->multiply.multiply;
    Buffer whole(outputs), parts(outputs);
    product.output = whole.data();
    multiply(product);
    for (int first = 0, count = 0; first < product.count; first += count) {
      count = random.integer(1, product.count - first);
      Product part = product;
      part.count = count;
      part.input += first * part.in_pixel_step;
      part.output = parts.data() + first * part.out_pixel_step;
      if (part.added != nullptr) part.added += first * part.added_pixel_step;
      multiply(part);
    }
    const std::vector<float> found = whole.checked();
    check(same_bits(found, parts.checked()), "a product does not depend on how the pixels are divided");
    for (int i = 0; i < product.count; ++i) {
      for (int o = 0; o < product.out_blocks * kBlock; ++o) {
        Sum sum;
        if (product.bias != nullptr) sum.add(bias[static_cast<size_t>(o)]);
        for (int t = 0; t < product.tap_count; ++t) {
          for (int in = 0; in < product.in_blocks * lanes; ++in) {
            const std::ptrdiff_t at = taps[static_cast<size_t>(t)] + in / lanes * product.in_block_step +
                                      i * product.in_pixel_step + in % lanes;
            const size_t row = (static_cast<size_t>(o / kBlock) * taps.size() + t) * product.in_blocks * lanes + in;
            sum.add(double{input[static_cast<size_t>(at)]} * weights[row * kBlock + o % kBlock]);
          }
        }
        if (product.added != nullptr) {
          sum.add(added[static_cast<size_t>(i * product.added_pixel_step + o / kBlock * product.added_block_step +
                                            o % kBlock)]);
        }
        const auto at =
            static_cast<size_t>(o / kBlock * product.out_block_step + i * product.out_pixel_step + o % kBlock);
        check_close(found[at], limited(sum.value, product.clamp), sum.terms, "a product is close to sums in float64");
      }
    }
  }
}

}  // namespace direct_convolutions
