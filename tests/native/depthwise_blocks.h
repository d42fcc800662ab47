// Compares depthwise blocks with direct convolutions in float64 over planar images, for all kernels of this machine.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include "check.h"
#include "convolution/depthwise_block.h"
#include "convolution_properties.h"
#include "random.h"
#include "tested_kernels.h"

namespace depthwise_blocks {

using convolution_tests::in_threads;
using convolution_tests::limited;
using convolution_tests::values;
using retinasdk::Addition;
using retinasdk::blocks_of;
using retinasdk::Clamp;
using retinasdk::DepthwiseBlock;
using retinasdk::DirectWeights;
using retinasdk::kBlock;
using retinasdk::Layout;
using retinasdk::Window;

struct Image {
  int batch, channels, height, width;
  std::vector<double> values;  // Planar.

  Image(int batch_, int channels_, int height_, int width_)
      : batch(batch_),
        channels(channels_),
        height(height_),
        width(width_),
        values(static_cast<size_t>(batch) * channels * height * width) {}

  size_t at(int image, int channel, int y, int x) const {
    return ((static_cast<size_t>(image) * channels + channel) * height + y) * width + x;
  }
  // Returns where a value lies in the blocked layout.
  size_t blocked_at(int image, int channel, int y, int x) const {
    const size_t plane = static_cast<size_t>(image) * blocks_of(channels) + channel / kBlock;
    return ((plane * height + y) * width + x) * kBlock + channel % kBlock;
  }
  size_t blocked_size() const { return static_cast<size_t>(batch) * blocks_of(channels) * kBlock * height * width; }

  template <typename Function>
  void for_each(const Function& function) const {
    for (int n = 0; n < batch; ++n) {
      for (int c = 0; c < channels; ++c) {
        for (int y = 0; y < height; ++y) {
          for (int x = 0; x < width; ++x) function(n, c, y, x);
        }
      }
    }
  }
};

// A convolution next to the depthwise one.
struct Neighbor {
  int in, out;
  std::vector<float> weights, bias;  // The bias may be empty.
  Clamp clamp;
  Window window = {};
  Layout input = Layout::kBlocked;
};

// What is computed, on which image.
struct Case {
  int channels;
  Window window;
  std::vector<float> weights, bias;
  Clamp clamp;
  std::optional<Neighbor> expand, project;
  Addition addition;
  int threads;
  Image input, added;
};

// Low is at most 0, and high at least 0: only then the channels that fill up a block stay zero.
inline Clamp make_clamp(Random& random) {
  if (random.chance(3)) return {};
  return {random.chance(2) ? 0.0f : random.real(-2, 0), random.chance(2) ? kInfinity : random.real(0, 2)};
}

inline Neighbor make_neighbor(Random& random, int in, int out, const Window& window = {}) {
  Neighbor made{in, out, values(random, in * out * window.height * window.width), {}, make_clamp(random), window};
  if (random.chance(2)) made.bias = values(random, out);
  return made;
}

inline Window make_window(Random& random) {
  Window window;
  const bool usual = random.chance(2);
  window.height = usual ? 3 + 2 * random.integer(0, 1) : random.integer(1, 7);
  window.width = usual ? window.height : random.integer(1, 7);
  window.stride_y = random.integer(1, usual ? 2 : 4);
  window.stride_x = usual ? window.stride_y : random.integer(1, 4);
  const auto padding = [&](int side) { return usual ? side / 2 : random.integer(0, side + 2); };
  window.top = padding(window.height), window.bottom = padding(window.height);
  window.left = padding(window.width), window.right = padding(window.width);
  return window;
}

// most_side: of the input, in pixels.
inline Case make_case(Random& random, int most_side) {
  const int channels = random.integer(1, random.chance(6) ? 200 : 40);
  const Window window = make_window(random);
  std::optional<Neighbor> expand, project;
  if (random.chance(2)) {
    const bool is_planar = random.chance(2);
    expand = make_neighbor(random, random.integer(1, is_planar ? 5 : 40), channels,
                           is_planar ? make_window(random) : Window{});
    if (is_planar) expand->input = Layout::kPlanar;
  }
  if (random.chance(2)) project = make_neighbor(random, channels, random.integer(1, 40));
  const int batch = random.integer(1, 3);
  // The image that a window makes must have so many rows or columns, or more.
  const auto before = [](int wanted, int side, int stride, int padding) {
    return (wanted - 1) * stride + side - padding;
  };
  const Window first = expand ? expand->window : Window{};
  const int rows = std::max(1, window.height - window.top - window.bottom);
  const int columns = std::max(1, window.width - window.left - window.right);
  const int height =
      std::max(random.integer(1, most_side), before(rows, first.height, first.stride_y, first.top + first.bottom));
  const int width =
      std::max(random.integer(1, most_side), before(columns, first.width, first.stride_x, first.left + first.right));
  const Addition addition = project ? static_cast<Addition>(random.integer(0, 2)) : Addition::kNone;
  const bool same = addition == Addition::kSame;
  Case made{channels,
            window,
            values(random, channels * window.height * window.width),
            {},
            make_clamp(random),
            expand,
            project,
            addition,
            random.integer(0, 4),
            Image(batch, expand ? expand->in : channels, height, width),
            Image(batch, project ? project->out : 0,
                  same ? window.out_height(first.out_height(height)) : random.integer(1, 9),
                  same ? window.out_width(first.out_width(width)) : random.integer(1, 9))};
  if (random.chance(2)) made.bias = values(random, channels);
  for (double& value : made.input.values) value = random.real(-1, 1);
  for (double& value : made.added.values) value = random.real(-1, 1);
  return made;
}

// -- the oracle ------------------------------------------------------------------------------------------------------

inline Image convolved(const Neighbor& step, const Image& input, const Case& made, bool adds) {
  const Window& w = step.window;
  Image output(input.batch, step.out, w.out_height(input.height), w.out_width(input.width));
  output.for_each([&](int n, int c, int y, int x) {
    double sum = step.bias.empty() ? 0.0 : step.bias[static_cast<size_t>(c)];
    for (int i = 0; i < step.in; ++i) {
      for (int ky = 0; ky < w.height; ++ky) {
        for (int kx = 0; kx < w.width; ++kx) {
          const int in_y = y * w.stride_y - w.top + ky, in_x = x * w.stride_x - w.left + kx;
          if (in_y < 0 || in_y >= input.height || in_x < 0 || in_x >= input.width) continue;
          sum += step.weights[static_cast<size_t>(((c * step.in + i) * w.height + ky) * w.width + kx)] *
                 input.values[input.at(n, i, in_y, in_x)];
        }
      }
    }
    if (adds && made.addition != Addition::kNone) {
      const Image& added = made.added;
      sum += added.values[added.at(n, c, y * added.height / output.height, x * added.width / output.width)];
    }
    output.values[output.at(n, c, y, x)] = limited(sum, step.clamp);
  });
  return output;
}

inline Image depthwise(const Case& made, const Image& input) {
  const Window& w = made.window;
  Image output(input.batch, made.channels, w.out_height(input.height), w.out_width(input.width));
  output.for_each([&](int n, int c, int y, int x) {
    double sum = made.bias.empty() ? 0.0 : made.bias[static_cast<size_t>(c)];
    for (int ky = 0; ky < w.height; ++ky) {
      for (int kx = 0; kx < w.width; ++kx) {
        const int in_y = y * w.stride_y - w.top + ky, in_x = x * w.stride_x - w.left + kx;
        if (in_y < 0 || in_y >= input.height || in_x < 0 || in_x >= input.width) continue;
        sum += made.weights[static_cast<size_t>((c * w.height + ky) * w.width + kx)] *
               input.values[input.at(n, c, in_y, in_x)];
      }
    }
    output.values[output.at(n, c, y, x)] = limited(sum, made.clamp);
  });
  return output;
}

inline Image wanted(const Case& made) {
  const Image middle = depthwise(made, made.expand ? convolved(*made.expand, made.input, made, false) : made.input);
  return made.project ? convolved(*made.project, middle, made, true) : middle;
}

// -- the block -------------------------------------------------------------------------------------------------------

inline std::vector<float> blocked(const Image& image) {
  std::vector<float> made(image.blocked_size());
  image.for_each([&](int n, int c, int y, int x) {
    made[image.blocked_at(n, c, y, x)] = static_cast<float>(image.values[image.at(n, c, y, x)]);
  });
  return made;
}

inline DepthwiseBlock make_block(const Case& made, const retinasdk::convolution::Kernels& kernels) {
  const auto data = [](const std::vector<float>& bias) { return bias.empty() ? nullptr : bias.data(); };
  const auto step = [&](const std::optional<Neighbor>& from) -> std::optional<retinasdk::NeighborStep> {
    if (!from) return std::nullopt;
    return retinasdk::NeighborStep{
        std::make_shared<const DirectWeights>(from->weights.data(), from->out, from->in, from->window.height,
                                              from->window.width, from->input),
        data(from->bias), from->clamp, from->window};
  };
  return DepthwiseBlock(step(made.expand),
                        {made.weights.data(), data(made.bias), made.channels, made.window, made.clamp},
                        step(made.project), made.addition, made.threads, kernels);
}

// The buffers are exactly as large as the header says, so that the address sanitizer detects any access beyond them,
// and full of NaN, so that values that are read before they are written do not stay unseen.
inline std::vector<float> run(const Case& made, const DepthwiseBlock& block, size_t outputs, int threads) {
  const bool is_planar = made.expand && made.expand->input == Layout::kPlanar;
  const std::vector<float> input = is_planar ? std::vector<float>(made.input.values.begin(), made.input.values.end())
                                             : blocked(made.input),
                           added = blocked(made.added);
  std::vector<float> scratch(block.scratch_floats(made.input.batch, made.input.height, made.input.width), kNan);
  std::vector<float> output(outputs, kNan);
  retinasdk::ConvCall call;
  call.batch = made.input.batch, call.height = made.input.height, call.width = made.input.width;
  call.input = input.data();
  if (made.addition != Addition::kNone) {
    call.added = added.data(), call.added_height = made.added.height, call.added_width = made.added.width;
  }
  call.output = output.data(), call.scratch = scratch.data();
  block.run(call, in_threads(threads));
  return output;
}

inline void check_case(const Case& made, const retinasdk::convolution::Kernels& kernels) {
  const DepthwiseBlock block = make_block(made, kernels);
  const Image right = wanted(made);
  check(block.in_channels() == made.input.channels && block.out_channels() == right.channels, "a block's channels");
  const std::vector<float> output = run(made, block, right.blocked_size(), 1);
  std::vector<char> is_channel(output.size());
  right.for_each([&](int n, int c, int y, int x) {
    const double value = right.values[right.at(n, c, y, x)];
    check(std::fabs(output[right.blocked_at(n, c, y, x)] - value) < 1e-4 * (1 + std::fabs(value)),
          "a depthwise block is close to direct convolutions");
    is_channel[right.blocked_at(n, c, y, x)] = 1;
  });
  for (size_t i = 0; i < output.size(); ++i) {
    check(is_channel[i] || output[i] == 0.0f, "the channels that fill up the last block are zero");
  }
  for (const int threads : {2, 5}) {
    check(run(made, block, output.size(), threads) == output,
          "the number of threads does not change a depthwise block");
  }
}

inline void check_random(Random& random, int most_side = 40) {
  Case made = make_case(random, most_side);
  if (random.chance(20)) {  // No images.
    made.input = Image(0, made.input.channels, made.input.height, made.input.width);
    made.added = Image(0, made.added.channels, made.added.height, made.added.width);
  }
  for (const auto* kernels : convolution_tests::float_kernels()) check_case(made, *kernels);
}

// -- what a block refuses, and NaN ------------------------------------------------------------------------------------

inline void check_refusals() {
  const std::vector<float> weights(16 * 9);
  Window window;
  window.height = window.width = 3;
  using Step = std::optional<retinasdk::NeighborStep>;
  const auto make = [&](const Window& with, int channels, const Step& project, Addition addition = Addition::kNone,
                        const Step& expand = std::nullopt) {
    return DepthwiseBlock(expand, {weights.data(), nullptr, channels, with, {}}, project, addition, 0);
  };
  const auto project = [&](int side, Layout layout, int in = 16) {
    const std::vector<float> values(static_cast<size_t>(16 * in * side * side));
    Window square;
    square.height = square.width = side;
    return retinasdk::NeighborStep{
        std::make_shared<const DirectWeights>(values.data(), 16, in, side, side, layout), nullptr, {}, square};
  };
  check_refused("channels must be 1 to 65536", [&] { make(window, 0, std::nullopt); });
  check_refused("next to a 1x1 convolution of 16", [&] { make(window, 9, project(1, Layout::kBlocked)); });
  check_refused("must be 1x1 and blocked, got 3x3", [&] { make(window, 16, project(3, Layout::kBlocked)); });
  check_refused("must be 1x1 and blocked", [&] { make(window, 16, project(1, Layout::kPlanar)); });
  check_refused("adds only after a projection", [&] { make(window, 16, std::nullopt, Addition::kSame); });
  check_refused("larger than the padded image", [&] { make(window, 16, std::nullopt).scratch_floats(1, 2, 9); });
  const auto photo = [&](const Step& expand) { return make(window, 16, std::nullopt, Addition::kNone, expand); };
  photo(project(3, Layout::kPlanar, 3));
  check_refused("must have at most 16 channels, got 17", [&] { photo(project(3, Layout::kPlanar, 17)); });
  check_refused("larger than the padded image", [&] { photo(project(3, Layout::kPlanar, 3)).scratch_floats(1, 4, 9); });
  check_refused("smaller than the window of 3 x 3",
                [&] { photo(project(3, Layout::kPlanar, 3)).scratch_floats(1, 2, 9); });
  Step wrong = project(3, Layout::kPlanar, 3);
  wrong->window.width = 2;
  check_refused("does not fit its weights, 3x3", [&] { photo(wrong); });
  wrong = project(1, Layout::kBlocked);
  wrong->window.left = 1;
  check_refused("does not fit its weights, 1x1", [&] { photo(wrong); });
  Window bad = window;
  bad.stride_x = 0;
  check_refused("must be 1 to 31", [&] { make(bad, 16, std::nullopt); });
  bad = window;
  bad.left = -1;
  check_refused("the padding", [&] { make(bad, 16, std::nullopt); });
}

inline void check_nan_spreads(Random& random) {
  Case made = make_case(random, 9);
  made.window = Window{};
  made.window.height = made.window.width = 3;
  made.window.top = made.window.left = made.window.bottom = made.window.right = 1;
  made.weights = values(random, made.channels * 9);
  if (made.expand && made.expand->input == Layout::kPlanar) {
    made.expand->window = made.window;
    made.expand->weights = values(random, made.expand->in * made.expand->out * 9);
  }
  made.addition = Addition::kNone;
  made.clamp = {0, 6};
  made.input.values[0] = kNan;
  const Image right = wanted(made);
  for (const auto* kernels : convolution_tests::float_kernels()) {
    const std::vector<float> output = run(made, make_block(made, *kernels), right.blocked_size(), 1);
    check(std::isnan(output[0]), "the clamps of a depthwise block keep a NaN");
  }
}

}  // namespace depthwise_blocks
