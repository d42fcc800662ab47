#include "runtime/tensorrt/lane.h"

#include <algorithm>
#include <cstring>

#include "runtime/errors.h"
#include "runtime/tensorrt/logger.h"

namespace retinasdk::runtime::trt {

Lane::Lane(const Engine& engine, const Suppression& suppression, RefusedShapes* refused)
    : engine_(engine),
      suppression_(suppression),
      // If the GPU shares the CPU's memory, results, which are written once, are not copied.
      results_("results", engine.is_integrated()),
      images_(engine.spec(), engine.is_integrated()),
      context_(engine.new_context()),
      graphs_(refused) {}

Lane::~Lane() {
  // Work that failed has been reported by the call that waited for it.
  cudaStreamSynchronize(stream_.handle());
}

std::vector<Kept> Lane::detect(const std::vector<ImageView>& images, const std::vector<Transform>& transforms,
                               const DetectOptions& options) {
  set_shape({static_cast<int>(images.size()), 3, transforms[0].padded.height, transforms[0].padded.width});
  set_parameters(transforms, options);
  std::byte* const input = plan_->input.in<std::byte>(frame_.data());
  const PreparedImages prepared = images_.prepare(images, transforms, scalar_of(engine_.input_type()), input,
                                                  plan_->input.size_bytes / images.size());
  const auto launch_rest = [this] { launch_network_to_results(); };
  graphs_.run(
      prepared.key, stream_,
      [&] {
        images_.launch(prepared, stream_);
        launch_network_to_results();
      },
      // A frame like no other before: from the network on, it may be like those of other images.
      [&] {
        images_.launch(prepared, stream_);
        graphs_.run("network to results", stream_, launch_rest, launch_rest);
      });
  stream_.wait();
  return read_results();
}

// Prepares the memory and the context for an input of this shape, unless the last call had the same one.
void Lane::set_shape(const InputShape& shape) {
  if (shape == shape_) return;
  graphs_.begin(shape);
  shape_ = {};
  const ModelSpec& spec = engine_.spec();
  const CollectedErrors errors;
  if (!context_->setInputShape(spec.input.c_str(), as_dims(shape))) {
    throw DeviceError("TensorRT rejects the input shape " + in_words(shape) + ": " + errors.reason() + ".");
  }
  plan_.emplace(spec, suppression_, shape, engine_.input_type(), engine_.output_memory(*context_));
  frame_.reserve(plan_->device_bytes);
  parameters_.reserve(plan_->parameter_bytes);
  results_.reserve(plan_->result_bytes);
  const auto set_address = [&](const std::string& name, const Field& field) {
    if (context_->setTensorAddress(name.c_str(), frame_.data() + field.offset)) return;
    throw DeviceError(engine_.path() + ": TensorRT rejects the address of the tensor '" + name +
                      "': " + errors.reason() + ".");
  };
  set_address(spec.input, plan_->input);
  for (size_t i = 0; i < plan_->tensors.size(); ++i) set_address(plan_->outputs()[i].name, plan_->tensors[i]);
  shape_ = shape;
}

void Lane::launch_network_to_results() {
  const std::string doing = "launching a frame";
  parameters_.upload(plan_->parameter_bytes, stream_, doing);
  {
    const CollectedErrors errors;
    if (!context_->enqueueV3(stream_.handle())) {
      throw DeviceError("TensorRT failed on the input shape " + in_words(shape_) + ": " + errors.reason() + ".");
    }
  }
  const FramePlan::Blocks blocks{frame_.data(), parameters_.device(), results_.device(), engine_.base_anchors()};
  checked(doing, [&] {
    plan_->decode(blocks, stream_);
    plan_->suppress(blocks, stream_);
  });
  results_.download(plan_->result_bytes, stream_, doing);
}

void Lane::set_parameters(const std::vector<Transform>& transforms, const DetectOptions& options) {
  const FramePlan& plan = *plan_;
  const ModelSpec& spec = engine_.spec();
  std::byte* const block = parameters_.host();
  const auto classes = static_cast<size_t>(plan.classes());
  const auto score_of = [&options](size_t index) {
    return options.score_thresholds.size() == 1 ? options.score_thresholds[0] : options.score_thresholds[index];
  };
  std::fill_n(plan.class_mask.in<uint8_t>(block), classes, uint8_t{options.class_ids.empty()});
  for (const int index : options.class_ids) plan.class_mask.in<uint8_t>(block)[index] = 1;
  double lowest = 1.0;
  for (size_t index = 0; index < classes; ++index) {
    plan.score_thresholds.in<float>(block)[index] = static_cast<float>(score_of(index));
    plan.class_thresholds.in<float>(block)[index] = static_cast<float>(logit(score_of(index)));
    if (plan.class_mask.in<uint8_t>(block)[index] != 0) lowest = std::min(lowest, score_of(index));
  }
  *plan.logit_threshold.in<float>(block) = static_cast<float>(logit(lowest));
  // A region without area ends the list.
  std::memset(plan.ignored.in<void>(block), 0, plan.ignored.size_bytes);
  for (size_t image = 0; image < transforms.size(); ++image) {
    const std::vector<float> regions = ignored_regions(options.ignore, transforms[image]);
    std::copy(regions.begin(), regions.end(), plan.ignored.in<float>(block) + image * kMaxRegions * 4);
    const std::array<float, 2> size = clip_size(transforms[image], spec);
    std::copy(size.begin(), size.end(), plan.clip_sizes.in<float>(block) + 2 * image);
  }
}

std::vector<Kept> Lane::read_results() const {
  const FramePlan& plan = *plan_;
  std::byte* const block = results_.host();
  std::vector<Kept> results;
  for (int image = 0; image < plan.batch(); ++image) {
    const int count = plan.counts.in<int32_t>(block)[image];
    const std::ptrdiff_t first = std::ptrdiff_t{image} * plan.room();
    const auto values = static_cast<std::ptrdiff_t>(plan.values());
    const float* const boxes = plan.boxes.in<float>(block) + first * values;
    const float* const scores = plan.scores.in<float>(block) + first;
    const int32_t* const class_ids = plan.class_ids.in<int32_t>(block) + first;
    Kept kept{{boxes, boxes + count * values}, {scores, scores + count}, {class_ids, class_ids + count}};
    if (plan.gives_logits()) std::transform(kept.scores.begin(), kept.scores.end(), kept.scores.begin(), sigmoid);
    results.push_back(std::move(kept));
  }
  return results;
}

}  // namespace retinasdk::runtime::trt
