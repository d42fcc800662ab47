// The float32 operators in the blocked layout, domain `retinasdk`. X is (N, ceil(C / 16), H, W, 16), see
// convolution/blocked.h, unless it is planar.
//
//   ToBlocked       planar X -> Y
//   FromBlocked     X -> planar Y. Attribute: channels
//   BlockedConv     X, optional Z -> Y. planar_input, planar_output: the layout of X and Y. Z is added, see `addition`.
//   WinogradConv    the same for 3x3 with stride 1 and padding 1. patch: 6 or 4. X is blocked.
//   WinogradLevels  X, ... -> Y, ...: the same, without Z, for the levels of a feature pyramid. levels: 1 to 8
//   DepthwiseBlock  X, optional Z -> Y. A depthwise convolution. expand_*: a 1x1 convolution before it, or with
//                   planar_input any convolution; project_*: a 1x1 convolution after it, to which Z is added. threads:
//                   of the session, 0: unknown.
//   BlockedMaxPool  X -> Y. kernel_y, kernel_x
//   BlockedAdd      X, Z -> Y. channels
//
// Attributes that several have: weights, bias: keys of lent tensors (lent_weights.h), 0: no bias. low, high: limits of
// the result. addition: 0: nothing, 1: Z of Y's shape, 2: Z is enlarged (Addition in blocked.h). factor: optional, how
// many times it must be enlarged; 0: to the size of Y. stride_y, stride_x, top, left, bottom, right: strides and
// padding.
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "convolution/depthwise_block.h"
#include "convolution/direct_conv.h"
#include "convolution/layout.h"
#include "convolution/winograd_conv.h"
#include "onnxruntime/operators.h"
#include "onnxruntime/ort_call.h"
#include "onnxruntime/ort_op.h"
#include "onnxruntime/ort_window.h"
#include "onnxruntime/shared_weights.h"

namespace retinasdk::ort {
namespace {

constexpr int kMaxThreads = 65536;

const float* data_of(const std::optional<LentTensor>& tensor) { return tensor ? tensor->data : nullptr; }

// Runs a convolution from `image`, input 0, to `result`, output 0.
template <typename Conv>
void convolve(Call& call, const Conv& conv, const Image& image, const Image& result, Addition addition, int factor) {
  const Image added = call.addition(addition, result, factor);
  call.make_output(result);
  if (result.is_empty()) return;
  ConvCall run;
  run.batch = image.batch;
  run.height = image.height;
  run.width = image.width;
  run.input = call.input;
  run.output = call.output;
  run.added = call.added;
  run.added_height = added.height;
  run.added_width = added.width;
  run.scratch = call.scratch(conv.scratch_floats(image.batch, image.height, image.width));
  conv.run(run, call.threads());
}

std::shared_ptr<const DirectWeights> direct_weights(const LentTensor& tensor, Layout input) {
  return shared_weights<DirectWeights>(tensor, size_of(tensor.shape[0]), size_of(tensor.shape[1]),
                                       size_of(tensor.shape[2]), size_of(tensor.shape[3]), input);
}

class ToBlocked {
 public:
  static constexpr const char* kName = "ToBlocked";
  static constexpr size_t kInputs = 1;

  explicit ToBlocked(const Attributes&) {}

  void compute(Call& call) const {
    Image image = call.image(Layout::kPlanar, 0);
    const int channels = image.channels;
    image.layout = Layout::kBlocked;
    call.make_output(image);
    if (image.is_empty()) return;
    to_blocked(call.input, image.batch, channels, image.height, image.width, call.output, call.threads());
  }
};

class FromBlocked {
 public:
  static constexpr const char* kName = "FromBlocked";
  static constexpr size_t kInputs = 1;

  explicit FromBlocked(const Attributes& from) : channels_(from.channels()) {}

  void compute(Call& call) const {
    Image image = call.image(Layout::kBlocked, channels_);
    image.layout = Layout::kPlanar;
    call.make_output(image);
    if (image.is_empty()) return;
    from_blocked(call.input, image.batch, channels_, image.height, image.width, call.output, call.threads());
  }

 private:
  const int channels_;
};

class BlockedConv {
 public:
  static constexpr const char* kName = "BlockedConv";
  static constexpr size_t kInputs = 2;

  explicit BlockedConv(const Attributes& from)
      : input_(from.layout("planar_input")),
        output_(from.layout("planar_output")),
        addition_(from.addition()),
        factor_(from.factor()),
        conv_(make(from)) {}

  void compute(Call& call) const {
    const Image image = call.image(input_, conv_.in_channels());
    convolve(call, conv_, image, behind(conv_.window(), image, output_, conv_.out_channels()), addition_, factor_);
  }

 private:
  DirectConv make(const Attributes& from) const {
    const LentTensor weights = from.weights("weights");
    const auto bias = from.bias("bias", weights.shape[0]);
    const Window window = from.window(size_of(weights.shape[2]), size_of(weights.shape[3]));
    return DirectConv(direct_weights(weights, input_), data_of(bias), window, from.clamp(output_), addition_, output_);
  }

  const Layout input_, output_;
  const Addition addition_;
  const int factor_;
  const DirectConv conv_;
};

Window winograd_window() {
  Window window;
  window.height = window.width = 3;
  window.top = window.left = window.bottom = window.right = 1;
  return window;
}

WinogradConv make_winograd(const Attributes& from, Addition addition, Layout output) {
  const LentTensor weights = from.weights("weights");
  Attributes::require(weights, "weights", {0, 0, 3, 3});
  const auto bias = from.bias("bias", weights.shape[0]);
  const int patch = from.integer("patch", 4, 6);
  if (patch == 5) throw std::invalid_argument("patch must be 4 or 6, got 5");
  auto transformed =
      shared_weights<WinogradWeights>(weights, size_of(weights.shape[0]), size_of(weights.shape[1]), patch);
  return WinogradConv(std::move(transformed), data_of(bias), from.clamp(output), addition, output);
}

class Winograd {
 public:
  static constexpr const char* kName = "WinogradConv";
  static constexpr size_t kInputs = 2;

  explicit Winograd(const Attributes& from)
      : output_(from.layout("planar_output")),
        addition_(from.addition()),
        factor_(from.factor()),
        conv_(make_winograd(from, addition_, output_)) {}

  void compute(Call& call) const {
    const Image image = call.image(Layout::kBlocked, conv_.in_channels());
    convolve(call, conv_, image, behind(winograd_window(), image, output_, conv_.out_channels()), addition_, factor_);
  }

 private:
  const Layout output_;
  const Addition addition_;
  const int factor_;
  const WinogradConv conv_;
};

class WinogradLevels {
 public:
  static constexpr const char* kName = "WinogradLevels";
  static constexpr size_t kInputs = WinogradConv::kMaxLevels, kOutputs = kInputs;

  explicit WinogradLevels(const Attributes& from)
      : levels_(from.integer("levels", 1, WinogradConv::kMaxLevels)),
        output_(from.layout("planar_output")),
        conv_(make_winograd(from, Addition::kNone, output_)) {}

  void compute(Call& call) const {
    ConvCall levels[WinogradConv::kMaxLevels];
    for (int i = 0; i < levels_; ++i) {
      const auto index = static_cast<size_t>(i);
      const Image image = call.image(Layout::kBlocked, conv_.in_channels(), index);
      call.make_output(behind(winograd_window(), image, output_, conv_.out_channels()), index);
      if (image.is_empty()) continue;  // No patches.
      levels[i].batch = image.batch;
      levels[i].height = image.height;
      levels[i].width = image.width;
      levels[i].input = call.input;
      levels[i].output = call.output;
    }
    conv_.run(levels, levels_, call.scratch(conv_.scratch_floats(levels, levels_)), call.threads());
  }

 private:
  const int levels_;
  const Layout output_;
  const WinogradConv conv_;
};

class Depthwise {
 public:
  static constexpr const char* kName = "DepthwiseBlock";
  static constexpr size_t kInputs = 2;

  explicit Depthwise(const Attributes& from) : addition_(from.addition()), factor_(from.factor()), block_(make(from)) {}

  void compute(Call& call) const {
    const Image image = call.image(block_.input(), block_.in_channels());
    const Image expanded = behind(block_.expand_window(), image, Layout::kBlocked, block_.channels());
    convolve(call, block_, image, behind(block_.window(), expanded, Layout::kBlocked, block_.out_channels()), addition_,
             factor_);
  }

 private:
  // A convolution next to the depthwise one, if it is there, and the lent bias that it points to.
  struct Neighbor {
    Neighbor(const Attributes& from, const std::string& prefix, Layout input, const std::vector<int64_t>& shape) {
      const std::string name = prefix + "weights";
      if (!from.has(name)) return;
      const LentTensor weights = from.weights(name);
      Attributes::require(weights, name, shape);
      bias = from.bias(prefix + "bias", weights.shape[0]);
      const Window window = input == Layout::kBlocked
                                ? Window{}
                                : from.window(size_of(weights.shape[2]), size_of(weights.shape[3]), prefix);
      step = NeighborStep{direct_weights(weights, input), data_of(bias), from.clamp(Layout::kBlocked, prefix), window};
    }

    std::optional<LentTensor> bias;
    std::optional<NeighborStep> step;
  };

  DepthwiseBlock make(const Attributes& from) const {
    const LentTensor weights = from.weights("weights");
    Attributes::require(weights, "weights", {0, 1, 0, 0});
    const int64_t channels = weights.shape[0];
    const auto bias = from.bias("bias", channels);
    const Window window = from.window(size_of(weights.shape[2]), size_of(weights.shape[3]));
    const Layout input = from.layout("planar_input");
    const int64_t side = input == Layout::kPlanar ? 0 : 1;
    const Neighbor expand(from, "expand_", input, {channels, 0, side, side});
    const Neighbor project(from, "project_", Layout::kBlocked, {0, channels, 1, 1});
    if (!expand.step && input == Layout::kPlanar) {
      throw std::invalid_argument("planar_input must be 0 without expand_weights");
    }
    if (!project.step && addition_ != Addition::kNone) {
      throw std::invalid_argument("addition must be 0 without project_weights");
    }
    const DepthwiseStep step{weights.data, data_of(bias), size_of(channels), window, from.clamp(Layout::kBlocked)};
    return DepthwiseBlock(expand.step, step, project.step, addition_, from.integer("threads", 0, kMaxThreads));
  }

  const Addition addition_;
  const int factor_;
  const DepthwiseBlock block_;
};

class MaxPool {
 public:
  static constexpr const char* kName = "BlockedMaxPool";
  static constexpr size_t kInputs = 1;

  explicit MaxPool(const Attributes& from) : window_(from.pooling()) {}

  void compute(Call& call) const {
    const Image image = call.image(Layout::kBlocked, 0);
    const Image result = behind(window_, image, Layout::kBlocked, image.channels);
    call.make_output(result);
    if (result.is_empty()) return;
    max_pool(call.input, image.batch, image.channels, image.height, image.width, window_, call.output, call.threads());
  }

 private:
  const Window window_;
};

class BlockedAdd {
 public:
  static constexpr const char* kName = "BlockedAdd";
  static constexpr size_t kInputs = 2;

  explicit BlockedAdd(const Attributes& from)
      : channels_(from.channels()),
        addition_(static_cast<Addition>(from.integer("addition", 1, 2))),
        factor_(from.factor()),
        clamp_(from.clamp(Layout::kBlocked)) {}

  void compute(Call& call) const {
    const Image image = call.image(Layout::kBlocked, channels_);
    const Image added = call.addition(addition_, image, factor_);
    call.make_output(image);
    if (image.is_empty()) return;
    add_blocked(call.input, image.batch, channels_, image.height, image.width, addition_, call.added, added.height,
                added.width, clamp_, call.output, call.threads());
  }

 private:
  const int channels_;
  const Addition addition_;
  const int factor_;
  const Clamp clamp_;
};

}  // namespace

std::vector<CustomOp> float_operators() {
  return {make_op<ToBlocked>(),      make_op<FromBlocked>(), make_op<BlockedConv>(), make_op<Winograd>(),
          make_op<WinogradLevels>(), make_op<Depthwise>(),   make_op<MaxPool>(),     make_op<BlockedAdd>()};
}

}  // namespace retinasdk::ort
