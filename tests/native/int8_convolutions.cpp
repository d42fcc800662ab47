// The 8-bit convolutions in random cases, against sums of 64 bits. All kernels make the same codes on any number of
// threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "convolution/int8_conv.h"
#include "convolution/int8_depthwise.h"
#include "convolution/int8_layout.h"
#include "convolution/int8_winograd.h"
#include "convolution_properties.h"
#include "random.h"
#include "tested_kernels.h"

namespace {

using namespace retinasdk;
using namespace retinasdk::int8;
using convolution_tests::in_threads;
using convolution_tests::int8_kernels;
using Codes = std::vector<uint8_t>;

size_t size(int value) { return static_cast<size_t>(value); }

Codes random_codes(Random& random, size_t count) {
  const bool extreme = random.chance(3);
  Codes made(count);
  for (uint8_t& code : made) code = static_cast<uint8_t>(extreme ? random.integer(0, 1) * 255 : random.integer(0, 255));
  return made;
}

// One case of a convolution: a planar image of codes, and all that decides on its output.
struct Case {
  int batch, in, out, height, width;
  bool is_depthwise;
  Window window;
  std::vector<float> weights;
  std::vector<int32_t> bias;
  std::vector<float> multipliers;
  int in_zero;
  CodeLimits limits;
  Codes image;  // (batch, in, height, width)

  Case(Random& random, bool depthwise) : is_depthwise(depthwise) {
    const auto side = [&] { return random.chance(2) ? 1 : random.integer(1, 5); };
    batch = random.integer(1, 2);
    in = random.integer(1, random.chance(3) ? 100 : 20);
    out = depthwise ? in : random.integer(1, random.chance(3) ? 200 : 40);
    if (depthwise) {
      window.height = window.width = random.chance(2) ? 3 : 5;
      window.stride_y = window.stride_x = random.integer(1, 2);
    } else {
      window.height = side();
      window.width = side();
      window.stride_y = random.chance(2) ? 1 : random.integer(1, 3);
      window.stride_x = random.chance(2) ? 1 : random.integer(1, 3);
    }
    window.top = random.integer(0, window.height - 1);
    window.bottom = random.integer(0, window.height - 1);
    window.left = random.integer(0, window.width - 1);
    window.right = random.integer(0, window.width - 1);
    height = random.integer(window.height, window.height + 20);
    width = random.integer(window.width, window.width + (random.chance(4) ? 60 : 20));
    const int per_output = (depthwise ? 1 : in) * window.height * window.width;
    const bool extreme = random.chance(3);
    for (int i = 0; i < out * per_output; ++i) {
      weights.push_back(static_cast<float>(extreme ? random.integer(0, 1) * 255 - 128 : random.integer(-128, 127)));
    }
    const int most_bias = random.chance(3) ? (1 << 30) : 20000;
    for (int i = 0; i < out; ++i) {
      bias.push_back(random.integer(-most_bias, most_bias));
      // Some of these sums lie exactly between two codes.
      multipliers.push_back(random.chance(3) ? 0.5f : random.real(1e-6f, 0.02f));
    }
    in_zero = random.chance(3) ? 0 : random.integer(0, 255);
    limits.zero = random.chance(3) ? 0 : random.integer(0, 255);
    limits.low = random.chance(2) ? 0 : random.integer(0, 255);
    limits.high = random.chance(2) ? 255 : random.integer(limits.low, 255);
    image = random_codes(random, size(batch) * size(in) * size(height) * size(width));
  }

  // Gives the convolution a kernel of 3 x 3 and strides of 1.
  void become_3x3(Random& random) {
    window = Window{};
    window.height = window.width = 3;
    for (int* padding : {&window.top, &window.left, &window.bottom, &window.right}) *padding = random.integer(0, 2);
    height = random.integer(3, 30);
    width = random.integer(3, 30);
    const bool extreme = random.chance(3);
    weights.clear();
    for (int i = 0; i < out * in * 9; ++i) {
      weights.push_back(static_cast<float>(extreme ? random.integer(0, 1) * 255 - 128 : random.integer(-128, 127)));
    }
    image = random_codes(random, size(batch) * size(in) * size(height) * size(width));
  }

  int out_height() const { return window.out_height(height); }
  int out_width() const { return window.out_width(width); }
  Rounding rounding() const { return {bias.data(), multipliers.data(), in_zero, limits}; }

  // The exact sum of an output, with double weights.
  template <typename Weight>
  double sum(int n, int o, int y, int x, const Weight& weight) const {
    double total = 0;
    const int channels = is_depthwise ? 1 : in;
    for (int c = 0; c < channels; ++c) {
      const size_t plane = size(n) * size(in) + size(is_depthwise ? o : c);
      for (int ky = 0; ky < window.height; ++ky) {
        for (int kx = 0; kx < window.width; ++kx) {
          const int from_y = y * window.stride_y + ky - window.top, from_x = x * window.stride_x + kx - window.left;
          if (from_y < 0 || from_y >= height || from_x < 0 || from_x >= width) continue;
          const int code = image[(plane * size(height) + size(from_y)) * size(width) + size(from_x)];
          const int place = ((o * channels + c) * window.height + ky) * window.width + kx;
          total += (code - in_zero) * weight(size(place));
        }
      }
    }
    return total;
  }

  uint8_t expected(int n, int o, int y, int x) const {
    const auto total = static_cast<int64_t>(sum(n, o, y, x, [&](size_t i) { return static_cast<double>(weights[i]); }));
    const float number = static_cast<float>(total + bias[size(o)]) * multipliers[size(o)];
    const float code = std::nearbyintf(std::fmax(-1e6f, std::fmin(1e6f, number))) + static_cast<float>(limits.zero);
    return static_cast<uint8_t>(std::clamp(static_cast<int>(code), limits.low, limits.high));
  }
};

Codes blocked(const Codes& planar, int batch, int channels, int pixels, uint8_t filler) {
  const int blocks = blocks_of(channels);
  Codes made(size(batch) * size(blocks) * size(pixels) * kBlock, filler);
  for (int n = 0; n < batch; ++n) {
    for (int c = 0; c < channels; ++c) {
      for (int i = 0; i < pixels; ++i) {
        made[((size(n) * size(blocks) + size(c / kBlock)) * size(pixels) + size(i)) * kBlock + size(c % kBlock)] =
            planar[(size(n) * size(channels) + size(c)) * size(pixels) + size(i)];
      }
    }
  }
  return made;
}

// Scratch memory that starts with a cache line.
struct Scratch {
  explicit Scratch(size_t bytes) : values(make_aligned(bytes / sizeof(float) + kAlignment)) {}
  uint8_t* data() const { return reinterpret_cast<uint8_t*>(values.get()); }
  AlignedFloats values;
};

template <typename Conv>
Codes run_codes(const Case& test, const Conv& conv, int threads) {
  const Codes input =
      blocked(test.image, test.batch, test.in, test.height * test.width, 255);  // Fillers do not matter.
  const int pixels = test.out_height() * test.out_width();
  Codes output(size(test.batch) * size(blocks_of(test.out)) * size(pixels) * kBlock);
  const Scratch scratch(conv.scratch_bytes(test.batch, test.height, test.width));
  conv.run({test.batch, test.height, test.width, input.data(), output.data(), nullptr, scratch.data()},
           in_threads(threads));
  Codes planar(size(test.batch) * size(test.out) * size(pixels));
  codes_from_blocked(output.data(), test.batch, test.out, size(pixels), planar.data(), in_threads(1));
  return planar;
}

void check_codes(const Case& test, const Codes& found) {
  size_t place = 0;
  for (int n = 0; n < test.batch; ++n) {
    for (int o = 0; o < test.out; ++o) {
      for (int y = 0; y < test.out_height(); ++y) {
        for (int x = 0; x < test.out_width(); ++x, ++place) {
          check(found[place] == test.expected(n, o, y, x), "codes equal those of exact sums");
        }
      }
    }
  }
}

void check_convolution(Random& random) {
  const Case test(random, false);
  const auto kernels = int8_kernels();
  const auto made = [&](const Kernels& with) {
    const auto weights = std::make_shared<PackedWeights>(test.weights.data(), test.out, test.in, test.window.height,
                                                         test.window.width, with);
    return Conv(weights, test.window, test.rounding());
  };
  const Codes found = run_codes(test, made(*kernels.front()), 1);
  check_codes(test, found);
  for (const Kernels* each : kernels) {
    const Conv conv = made(*each);
    for (const int threads : {2, 5}) check(run_codes(test, conv, threads) == found, "all kernels and threads agree");
  }
}

void check_winograd(Random& random) {
  Case test(random, false);
  test.become_3x3(random);
  const auto made = [&](const Kernels& with) {
    const auto weights = std::make_shared<WinogradWeights>(test.weights.data(), test.out, test.in, with);
    return WinogradConv(weights, test.window, test.rounding());
  };
  for (const Kernels* each : int8_kernels()) {
    const Kernels* with = winograd_kernels(*each);
    if (!WinogradWeights::fits(test.weights.data(), test.out, test.in, with)) continue;
    const Codes found = run_codes(test, made(*with), 1);
    check_codes(test, found);
    check(run_codes(test, made(*with), 5) == found, "Winograd's codes are those of one thread");
  }
}

void check_depthwise(Random& random) {
  const Case test(random, true);
  const auto kernels = int8_kernels();
  const auto made = [&](const Kernels& with) {
    return DepthwiseConv(test.weights.data(), test.in, test.window, test.rounding(), with);
  };
  const Codes found = run_codes(test, made(*kernels.front()), 1);
  check_codes(test, found);
  for (const Kernels* each : kernels) {
    for (const int threads : {2, 5}) {
      check(run_codes(test, made(*each), threads) == found, "all kernels and threads agree on depthwise convolutions");
    }
  }
}

std::vector<float> run_numbers(const Case& test, const FloatConv& conv, int threads) {
  const Codes input = blocked(test.image, test.batch, test.in, test.height * test.width, 255);
  std::vector<float> output(size(test.batch) * size(test.out) * size(test.out_height() * test.out_width()));
  const Scratch scratch(conv.scratch_bytes(test.batch, test.height, test.width));
  conv.run({test.batch, test.height, test.width, input.data(), nullptr, output.data(), scratch.data()},
           in_threads(threads));
  return output;
}

void check_float_convolution(Random& random) {
  Case test(random, false);
  std::vector<float> biases;
  for (int i = 0; i < test.out; ++i) biases.push_back(random.real(-1, 1));
  const int per_output = test.in * test.window.height * test.window.width;
  const float scale = random.real(0.001f, 1.0f), magnitude = random.chance(4) ? 0.0f : random.real(1e-20f, 10.0f);
  for (float& weight : test.weights) weight = random.real(-magnitude, magnitude);
  const auto kernels = int8_kernels();
  const auto made = [&](const Kernels& with) {
    const auto weights = std::make_shared<FineWeights>(test.weights.data(), test.out, test.in, test.window.height,
                                                       test.window.width, with);
    return FloatConv(weights, biases.data(), test.window, scale, test.in_zero);
  };
  const std::vector<float> found = run_numbers(test, made(*kernels.front()), 1);
  size_t place = 0;
  for (int n = 0; n < test.batch; ++n) {
    for (int o = 0; o < test.out; ++o) {
      const auto first = test.weights.begin() + o * per_output;
      double most = 0, total = 0;
      for (auto weight = first; weight < first + per_output; ++weight) {
        most = std::fmax(most, static_cast<double>(std::fabs(*weight)));
        total += static_cast<double>(std::fabs(*weight));
      }
      // Each weight is rounded by half a unit, and then the sums to float32.
      const double unit = std::fmax(most / 16319, total / 8.3e6);
      const double error = 255.0 * scale * per_output * (unit * 0.51 + 2e-38) + 1e-5;
      for (int y = 0; y < test.out_height(); ++y) {
        for (int x = 0; x < test.out_width(); ++x, ++place) {
          const double exact = test.sum(n, o, y, x, [&](size_t i) {
            return static_cast<double>(test.weights[i]);
          }) * scale + static_cast<double>(biases[size(o)]);
          check(std::fabs(static_cast<double>(found[place]) - exact) <= error + 1e-6 * std::fabs(exact),
                "a convolution with float32 weights is as exact as stated");
        }
      }
    }
  }
  for (const Kernels* each : kernels) {
    check(run_numbers(test, made(*each), 5) == found, "all kernels and threads agree on float32 weights");
  }
}

void check_sum(Random& random) {
  const int height = random.integer(1, 20), width = random.integer(1, 20), images = random.integer(1, 4);
  const bool is_enlarged = random.chance(2);
  const int low_height = is_enlarged ? random.integer(1, height) : height;
  const int low_width = is_enlarged ? random.integer(1, width) : width;
  const size_t pixels = size(height) * size(width), low_pixels = size(low_height) * size(low_width);
  const Codes input = random_codes(random, size(images) * pixels * kBlock);
  const Codes added = random_codes(random, size(images) * low_pixels * kBlock);
  const bool added_first = random.chance(2);
  CodeSum sum{random.real(0.01f, 3), random.real(0.01f, 3), random.real(-300, 300), 0, 255};
  if (random.chance(2)) sum.low = random.integer(0, 255), sum.high = random.integer(sum.low, 255);
  Codes expected(input.size());
  for (int n = 0; n < images; ++n) {
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        const int low_y = y * low_height / height, low_x = x * low_width / width;
        for (size_t c = 0; c < kBlock; ++c) {
          const size_t place = ((size(n) * size(height) + size(y)) * size(width) + size(x)) * kBlock + c;
          const size_t low = ((size(n) * size(low_height) + size(low_y)) * size(low_width) + size(low_x)) * kBlock + c;
          const auto one = static_cast<float>(input[place]), other = static_cast<float>(added[low]);
          const float first = std::fmaf(added_first ? one : other, sum.b_ratio, sum.offset);
          const float number = std::fmaf(added_first ? other : one, sum.a_ratio, first);
          const int code = static_cast<int>(std::nearbyintf(number));
          expected[place] = static_cast<uint8_t>(std::clamp(code, sum.low, sum.high));
        }
      }
    }
  }
  for (const Kernels* each : int8_kernels()) {
    Codes found(input.size());
    add_codes(
        {size(images), height, width, low_height, low_width, input.data(), added.data(), added_first, found.data()},
        sum, in_threads(random.integer(1, 5)), *each);
    check(found == expected, "sums of codes are rounded once");
  }
}

void check_quantize(Random& random) {
  const int batch = random.integer(1, 2), channels = random.integer(1, 40), pixels = random.integer(1, 70);
  const float scale = random.real(0.01f, 2);
  const int zero = random.integer(0, 255);
  std::vector<float> planar(size(batch) * size(channels) * size(pixels));
  for (float& value : planar) value = random.chance(5) ? random.hostile() : random.real(-300, 300);
  Codes expected;
  for (const float value : planar) {
    const float steps = std::nearbyintf(std::fmax(-1000.0f, std::fmin(1000.0f, value / scale)));
    expected.push_back(std::isnan(value) ? uint8_t{0}
                                         : static_cast<uint8_t>(std::clamp(static_cast<int>(steps) + zero, 0, 255)));
  }
  std::vector<float> lanes(size(batch) * size(blocks_of(channels)) * size(pixels) * kBlock);
  for (int n = 0; n < batch; ++n) {
    for (int c = 0; c < channels; ++c) {
      for (int i = 0; i < pixels; ++i) {
        const size_t block = size(n) * size(blocks_of(channels)) + size(c / kBlock);
        lanes[(block * size(pixels) + size(i)) * kBlock + size(c % kBlock)] =
            planar[(size(n) * size(channels) + size(c)) * size(pixels) + size(i)];
      }
    }
  }
  for (const Kernels* each : int8_kernels()) {
    for (const Layout layout : {Layout::kPlanar, Layout::kBlocked}) {
      Codes made(lanes.size()), found(planar.size());
      const float* numbers = layout == Layout::kPlanar ? planar.data() : lanes.data();
      quantize_blocked(numbers, layout, batch, channels, size(pixels), scale, zero, made.data(),
                       in_threads(random.integer(1, 5)), *each);
      codes_from_blocked(made.data(), batch, channels, size(pixels), found.data(), in_threads(2), *each);
      check(found == expected, "numbers become the nearest codes");
    }
  }
}

void check_pooling(Random& random) {
  Window window;
  for (int* side : {&window.height, &window.width}) *side = random.integer(1, 4);
  for (int* stride : {&window.stride_y, &window.stride_x}) *stride = random.integer(1, 3);
  window.top = random.integer(0, window.height - 1);
  window.bottom = random.integer(0, window.height - 1);
  window.left = random.integer(0, window.width - 1);
  window.right = random.integer(0, window.width - 1);
  const int height = random.integer(window.height, 15), width = random.integer(window.width, 15);
  const int images = random.integer(1, 3), out_height = window.out_height(height), out_width = window.out_width(width);
  const Codes image = random_codes(random, size(images * height * width) * kBlock);
  Codes found(size(images * out_height * out_width) * kBlock), expected;
  for (int n = 0; n < images; ++n) {
    for (int y = 0; y < out_height; ++y) {
      for (int x = 0; x < out_width; ++x) {
        for (size_t c = 0; c < kBlock; ++c) {
          uint8_t largest = 0;
          for (int row = y * window.stride_y - window.top; row < y * window.stride_y - window.top + window.height;
               ++row) {
            for (int i = x * window.stride_x - window.left; i < x * window.stride_x - window.left + window.width; ++i) {
              if (row < 0 || row >= height || i < 0 || i >= width) continue;
              largest = std::max(largest, image[size((n * height + row) * width + i) * kBlock + c]);
            }
          }
          expected.push_back(largest);
        }
      }
    }
  }
  max_pool(image.data(), size(images), height, width, window, found.data(), in_threads(random.integer(1, 5)));
  check(found == expected, "the largest code of each window");
}

void check_refusals() {
  const float fraction = 0.5f, large = 128, infinite = kInfinity;
  check_refused("whole numbers", [&] { PackedWeights(&fraction, 1, 1, 1, 1); });
  check_refused("whole numbers", [&] { PackedWeights(&large, 1, 1, 1, 1); });
  check_refused("whole numbers", [&] { PackedWeights(&infinite, 1, 1, 1, 1); });
  check_refused("finite", [&] { FineWeights(&infinite, 1, 1, 1, 1); });
  check_refused("channels", [&] { PackedWeights(&large, 0, 1, 1, 1); });
  check_refused("sides", [&] { PackedWeights(&large, 1, 1, 32, 1); });
  check_refused("at most 32768 weights", [&] { PackedWeights(&large, 1, 32769, 1, 1); });
  check_refused("within", [&] { start_of(std::numeric_limits<int32_t>::min(), 0, 0, 1); });
  const std::vector<float> weights(49);
  const Rounding rounding{nullptr, weights.data(), 0, {}};
  Window window;
  window.height = window.width = 7;
  check_refused("3x3 or 5x5", [&] { DepthwiseConv(weights.data(), 1, window, rounding); });
  const auto packed = std::make_shared<PackedWeights>(weights.data(), 1, 1, 7, 7);
  window.top = 7;
  check_refused("padding", [&] { Conv(packed, window, rounding); });
}

}  // namespace

int main(int count, char** arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 60;
  for (int seed = 0; seed < cases; ++seed) {
    Random random(static_cast<uint64_t>(seed));
    check_convolution(random);
    check_winograd(random);
    check_depthwise(random);
    check_float_convolution(random);
    check_sum(random);
    check_quantize(random);
    check_pooling(random);
  }
  check_refusals();
  std::printf("int8_convolutions: %d cases, kernels", cases);
  for (const Kernels* kernels : int8_kernels()) std::printf(" %s", kernels->name);
  std::printf(" (%s chosen): all properties hold\n", best_kernels().name);
}
