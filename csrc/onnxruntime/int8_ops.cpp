// The 8-bit operators, domain `retinasdk`. Codes are uint8; blocked codes are (N, ceil(C / 16), H, W, 16), see
// convolution/int8_kernels.h.
//
//   QuantizeBlocked     float32 X -> blocked codes. Attributes: scale, zero; planar_input: the layout of X
//   PlanarCodes         blocked codes X -> planar codes. Attribute: channels
//   QuantizedConv       blocked codes X -> blocked codes. Attributes: weights, bias, multipliers, window, in_zero,
//                       limits
//   QuantizedDepthwise  the same with weights (channels, 1, 3, 3) or (channels, 1, 5, 5), and a stride of 1 or 2
//   ConvOfCodes         blocked codes X -> planar float32. Attributes: weights and bias in float32, window, in_scale,
//                       in_zero
//   QuantizedAdd        blocked codes X, Z -> blocked codes. Attributes: scale and limits, x_scale, x_zero, z_scale,
//                       z_zero; z_first: Z is the first input of the addition in the model, see CodeSum
//   QuantizedMaxPool    blocked codes X -> blocked codes. Attributes: kernel_y, kernel_x, window
//
// Window: stride_y, stride_x, top, left, bottom, right. Limits: zero, low, high: the code of 0, and the limits of
// codes. Codes stand for scale * (code - zero).
//
// Lent tensors: 8-bit weights are float32 numbers from -128 to 127. Their bias is int32, whose bits are lent as
// float32. `multipliers` has scale of X * scale of the weights / scale of Y for each output channel.
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "convolution/int8_conv.h"
#include "convolution/int8_depthwise.h"
#include "convolution/int8_layout.h"
#include "convolution/int8_winograd.h"
#include "onnxruntime/operators.h"
#include "onnxruntime/ort_call.h"
#include "onnxruntime/ort_op.h"
#include "onnxruntime/ort_window.h"
#include "onnxruntime/shared_weights.h"

namespace retinasdk::ort {
namespace {

const uint8_t* codes_of(const float* data) { return reinterpret_cast<const uint8_t*>(data); }
uint8_t* codes_of(float* data) { return reinterpret_cast<uint8_t*>(data); }

// Returns scratch memory that begins with a cache line.
uint8_t* scratch_of(Call& call, std::size_t bytes) {
  if (bytes == 0) return nullptr;
  return codes_of(aligned(call.scratch((bytes + kAlignment + sizeof(float) - 1) / sizeof(float))));
}

float scale_of(const Attributes& from, const std::string& name) {
  const float scale = from.number(name);
  if (!(scale > 0.0f && scale <= std::numeric_limits<float>::max())) {
    throw std::invalid_argument(name + " must be positive and finite, got " + std::to_string(scale));
  }
  return scale;
}

int8::CodeLimits limits_of(const Attributes& from) {
  const int8::CodeLimits limits{from.integer("zero", 0, 255), from.integer("low", 0, 255),
                                from.integer("high", 0, 255)};
  if (limits.low > limits.high) {
    throw std::invalid_argument("low must be at most high, got " + std::to_string(limits.low) + " and " +
                                std::to_string(limits.high));
  }
  return limits;
}

// Weights, a bias and multipliers, as they are lent, and what they are made into.
class LentRounding {
 public:
  LentRounding(const Attributes& from, int64_t channels) : multipliers_(from.bias("multipliers", channels)) {
    if (!multipliers_) throw std::invalid_argument("multipliers are missing");
    for (std::size_t i = 0; i < multipliers_->count; ++i) {
      if (!std::isfinite(multipliers_->data[i])) throw std::invalid_argument("multipliers must be finite");
    }
    if (const auto lent = from.bias("bias", channels)) {
      bias_.resize(lent->count);
      std::memcpy(bias_.data(), lent->data, lent->count * sizeof(float));
    }
    rounding_ = {bias_.empty() ? nullptr : bias_.data(), multipliers_->data, from.integer("in_zero", 0, 255),
                 limits_of(from)};
  }

  LentRounding(const LentRounding&) = delete;
  LentRounding& operator=(const LentRounding&) = delete;

  const int8::Rounding& get() const { return rounding_; }

 private:
  const std::optional<LentTensor> multipliers_;
  std::vector<int32_t> bias_;
  int8::Rounding rounding_{};
};

template <typename Weights>
std::shared_ptr<const Weights> shared(const LentTensor& tensor) {
  return shared_weights<Weights>(tensor, size_of(tensor.shape[0]), size_of(tensor.shape[1]), size_of(tensor.shape[2]),
                                 size_of(tensor.shape[3]));
}

Window window_of(const Attributes& from, const LentTensor& weights) {
  return from.window(size_of(weights.shape[2]), size_of(weights.shape[3]));
}

// Runs a convolution from input 0 to output 0.
template <typename Conv>
void convolve(Call& call, const Conv& conv, int in_channels, int out_channels, Layout to) {
  const Image image = call.image(Layout::kBlocked, in_channels);
  const Image result = behind(conv.window(), image, to, out_channels);
  call.make_output(result);
  if (result.is_empty()) return;
  int8::CodesCall run;
  run.batch = image.batch;
  run.height = image.height;
  run.width = image.width;
  run.input = codes_of(call.input);
  run.codes = codes_of(call.output);
  run.numbers = call.output;
  run.scratch = scratch_of(call, conv.scratch_bytes(image.batch, image.height, image.width));
  conv.run(run, call.threads());
}

class QuantizeBlocked {
 public:
  static constexpr const char* kName = "QuantizeBlocked";
  static constexpr size_t kInputs = 1;
  static constexpr int kInputType = kFloat, kOutputType = kUint8;

  explicit QuantizeBlocked(const Attributes& from)
      : input_(from.layout("planar_input")), scale_(scale_of(from, "scale")), zero_(from.integer("zero", 0, 255)) {}

  void compute(Call& call) const {
    Image image = call.image(input_, 0);
    image.layout = Layout::kBlocked;
    call.make_output(image);
    if (image.is_empty()) return;
    const std::size_t pixels = static_cast<std::size_t>(image.height) * static_cast<std::size_t>(image.width);
    int8::quantize_blocked(call.input, input_, image.batch, image.channels, pixels, scale_, zero_,
                           codes_of(call.output), call.threads());
  }

 private:
  const Layout input_;
  const float scale_;
  const int zero_;
};

class PlanarCodes {
 public:
  static constexpr const char* kName = "PlanarCodes";
  static constexpr size_t kInputs = 1;
  static constexpr int kInputType = kUint8, kOutputType = kUint8;

  explicit PlanarCodes(const Attributes& from) : channels_(from.channels()) {}

  void compute(Call& call) const {
    Image image = call.image(Layout::kBlocked, channels_);
    image.layout = Layout::kPlanar;
    call.make_output(image);
    if (image.is_empty()) return;
    const std::size_t pixels = static_cast<std::size_t>(image.height) * static_cast<std::size_t>(image.width);
    int8::codes_from_blocked(codes_of(call.input), image.batch, channels_, pixels, codes_of(call.output),
                             call.threads());
  }

 private:
  const int channels_;
};

class QuantizedConv {
 public:
  static constexpr const char* kName = "QuantizedConv";
  static constexpr size_t kInputs = 1;
  static constexpr int kInputType = kUint8, kOutputType = kUint8;

  explicit QuantizedConv(const Attributes& from) : conv_(make(from)) {}

  void compute(Call& call) const {
    std::visit(
        [&](const auto& conv) { convolve(call, conv, conv.in_channels(), conv.out_channels(), Layout::kBlocked); },
        conv_);
  }

 private:
  using Conv = std::variant<int8::Conv, int8::WinogradConv>;

  static Conv make(const Attributes& from) {
    const LentTensor weights = from.weights("weights");
    const LentRounding rounding(from, weights.shape[0]);
    const Window window = window_of(from, weights);
    const int out = size_of(weights.shape[0]), in = size_of(weights.shape[1]);
    if (int8::WinogradConv::fits(window) && int8::WinogradWeights::fits(weights.data, out, in)) {
      return int8::WinogradConv(shared_weights<int8::WinogradWeights>(weights, out, in), window, rounding.get());
    }
    return int8::Conv(shared<int8::PackedWeights>(weights), window, rounding.get());
  }

  const Conv conv_;
};

class QuantizedDepthwise {
 public:
  static constexpr const char* kName = "QuantizedDepthwise";
  static constexpr size_t kInputs = 1;
  static constexpr int kInputType = kUint8, kOutputType = kUint8;

  explicit QuantizedDepthwise(const Attributes& from) : conv_(make(from)) {}

  void compute(Call& call) const { convolve(call, conv_, conv_.channels(), conv_.channels(), Layout::kBlocked); }

 private:
  static int8::DepthwiseConv make(const Attributes& from) {
    const LentTensor weights = from.weights("weights");
    Attributes::require(weights, "weights", {0, 1, 0, 0});
    const LentRounding rounding(from, weights.shape[0]);
    return int8::DepthwiseConv(weights.data, size_of(weights.shape[0]), window_of(from, weights), rounding.get());
  }

  const int8::DepthwiseConv conv_;
};

class ConvOfCodes {
 public:
  static constexpr const char* kName = "ConvOfCodes";
  static constexpr size_t kInputs = 1;
  static constexpr int kInputType = kUint8, kOutputType = kFloat;

  explicit ConvOfCodes(const Attributes& from) : conv_(make(from)) {}

  void compute(Call& call) const { convolve(call, conv_, conv_.in_channels(), conv_.out_channels(), Layout::kPlanar); }

 private:
  static int8::FloatConv make(const Attributes& from) {
    const LentTensor weights = from.weights("weights");
    const auto bias = from.bias("bias", weights.shape[0]);
    return int8::FloatConv(shared<int8::FineWeights>(weights), bias ? bias->data : nullptr, window_of(from, weights),
                           scale_of(from, "in_scale"), from.integer("in_zero", 0, 255));
  }

  const int8::FloatConv conv_;
};

class QuantizedAdd {
 public:
  static constexpr const char* kName = "QuantizedAdd";
  static constexpr size_t kInputs = 2;
  static constexpr int kInputType = kUint8, kOutputType = kUint8;

  explicit QuantizedAdd(const Attributes& from)
      : addition_(static_cast<Addition>(from.integer("addition", 1, 2))),
        factor_(from.factor()),
        added_first_(from.integer("z_first", 0, 1) == 1),
        sum_(make(from, added_first_)) {}

  void compute(Call& call) const {
    const Image image = call.image(Layout::kBlocked, 0);
    const Image added = call.addition(addition_, image, factor_);
    call.make_output(image);
    if (image.is_empty()) return;
    int8::SumCall run;
    run.images = static_cast<std::size_t>(image.batch) * static_cast<std::size_t>(blocks_of(image.channels));
    run.height = image.height;
    run.width = image.width;
    run.added_height = added.height;
    run.added_width = added.width;
    run.input = codes_of(call.input);
    run.added = codes_of(call.added);
    run.added_first = added_first_;
    run.codes = codes_of(call.output);
    int8::add_codes(run, sum_, call.threads());
  }

 private:
  static int8::CodeSum make(const Attributes& from, bool added_first) {
    const int8::CodeLimits limits = limits_of(from);
    const float scale = scale_of(from, "scale");
    const std::string a = added_first ? "z" : "x", b = added_first ? "x" : "z";
    const auto a_zero = static_cast<float>(from.integer(a + "_zero", 0, 255));
    const auto b_zero = static_cast<float>(from.integer(b + "_zero", 0, 255));
    int8::CodeSum sum;
    sum.a_ratio = scale_of(from, a + "_scale") / scale;
    sum.b_ratio = scale_of(from, b + "_scale") / scale;
    sum.offset = static_cast<float>(limits.zero) - std::fmaf(sum.a_ratio, a_zero, sum.b_ratio * b_zero);
    sum.low = limits.low;
    sum.high = limits.high;
    return sum;
  }

  const Addition addition_;
  const int factor_;
  const bool added_first_;
  const int8::CodeSum sum_;
};

class QuantizedMaxPool {
 public:
  static constexpr const char* kName = "QuantizedMaxPool";
  static constexpr size_t kInputs = 1;
  static constexpr int kInputType = kUint8, kOutputType = kUint8;

  explicit QuantizedMaxPool(const Attributes& from) : window_(from.pooling()) {}

  void compute(Call& call) const {
    const Image image = call.image(Layout::kBlocked, 0);
    const Image result = behind(window_, image, Layout::kBlocked, image.channels);
    call.make_output(result);
    if (result.is_empty()) return;
    const std::size_t images =
        static_cast<std::size_t>(image.batch) * static_cast<std::size_t>(blocks_of(image.channels));
    int8::max_pool(codes_of(call.input), images, image.height, image.width, window_, codes_of(call.output),
                   call.threads());
  }

 private:
  const Window window_;
};

}  // namespace

std::vector<CustomOp> quantized_operators() {
  return {make_op<QuantizeBlocked>(),    make_op<PlanarCodes>(), make_op<QuantizedConv>(),
          make_op<QuantizedDepthwise>(), make_op<ConvOfCodes>(), make_op<QuantizedAdd>(),
          make_op<QuantizedMaxPool>()};
}

}  // namespace retinasdk::ort
