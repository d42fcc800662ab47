#include "runtime/tensorrt/frame_plan.h"

#include <algorithm>

#include "runtime/errors.h"

namespace retinasdk::runtime::trt {
namespace {

Shape four(const Sides& shape) { return {shape[0], shape[1], shape[2], shape[3]}; }

}  // namespace

FramePlan::FramePlan(const ModelSpec& spec, const Suppression& suppression, const InputShape& shape,
                     nvinfer1::DataType input_type, std::vector<OutputMemory> outputs)
    : batch_(shape[0]),
      values_(spec.is_rotated() ? size_t{kRotatedValues} : 4),
      rules_(decode_rules(spec)),
      rotated_(rotated_coder(spec)),
      suppression_(suppression_rules(suppression, spec)),
      outputs_(std::move(outputs)) {
  rules_.batch = batch_;
  capacity_ = static_cast<int>(candidate_limit(spec.levels.size(), rules_));
  suppression_.nms.max_detections = std::min(suppression_.nms.max_detections, capacity_);

  const auto index_of = [this](const std::string& name) {
    const auto found =
        std::find_if(outputs_.begin(), outputs_.end(), [&name](const OutputMemory& each) { return each.name == name; });
    return static_cast<size_t>(found - outputs_.begin());
  };
  std::vector<Shape> logits, deltas;
  for (const Level& level : spec.levels) {
    heads_.push_back({index_of(level.logits), index_of(level.deltas)});
    logits.push_back(four(outputs_[heads_.back().logits].shape));
    deltas.push_back(four(outputs_[heads_.back().deltas].shape));
  }
  head_type_ = scalar_of(outputs_[heads_.front().logits].type);
  const std::vector<LevelPlace> places = place_levels(logits, deltas, spec, {shape[2], shape[3]});
  for (size_t i = 0; i < heads_.size(); ++i) {
    cuda::DeviceLevel level{};
    level.height = static_cast<int>(logits[i][2]);
    level.width = static_cast<int>(logits[i][3]);
    level.stride_y = places[i].stride_y;
    level.stride_x = places[i].stride_x;
    level.clip_height = places[i].clip_height;
    level.clip_width = places[i].clip_width;
    level.logit_cell_stride = outputs_[heads_[i].logits].cell_stride;
    level.delta_cell_stride = outputs_[heads_[i].deltas].cell_stride;
    levels_.push_back(level);
  }

  const auto images = static_cast<size_t>(batch_), candidates = images * static_cast<size_t>(capacity_);
  const size_t kept = images * static_cast<size_t>(room());
  const size_t values_of_image = 3 * static_cast<size_t>(shape[2]) * static_cast<size_t>(shape[3]);
  Layout device;
  input = device.add(images * values_of_image * bytes_of(input_type));
  for (const OutputMemory& output : outputs_) tensors.push_back(device.add(output.values * bytes_of(output.type)));
  candidate_boxes_ = device.add<float>(candidates * values_);
  candidate_logits_ = device.add<float>(candidates);
  candidate_class_ids_ = device.add<int32_t>(candidates);
  candidate_counts_ = device.add<int32_t>(images);
  kept_indices_ = device.add<int32_t>(kept);
  // Decode and suppression run one after the other, so they share their scratch memory.
  const Blocks nowhere{nullptr, nullptr, nullptr, {}};
  scratch_ =
      device.add(std::max(cuda::decode_scratch_bytes(levels_, decode_options(nowhere)), suppress_scratch_bytes()));
  device_bytes = device.size_bytes();

  constexpr size_t kAlignment = 4;
  const auto classes = static_cast<size_t>(rules_.classes);
  Layout parameters(kAlignment);
  logit_threshold = parameters.add<float>(1);
  clip_sizes = parameters.add<float>(images * 2);
  class_thresholds = parameters.add<float>(classes);
  score_thresholds = parameters.add<float>(classes);
  ignored = parameters.add<float>(images * kMaxRegions * 4);
  class_mask = parameters.add<uint8_t>(classes);
  parameter_bytes = parameters.size_bytes();

  Layout results(kAlignment);
  counts = results.add<int32_t>(images);
  rescans = results.add<int32_t>(images);
  boxes = results.add<float>(kept * values_);
  scores = results.add<float>(kept);
  class_ids = results.add<int32_t>(kept);
  result_bytes = results.size_bytes();
}

cuda::DeviceDecodeOptions FramePlan::decode_options(const Blocks& blocks) const {
  cuda::DeviceDecodeOptions options{};
  options.batch = batch_;
  options.anchors = rules_.anchors;
  options.classes = rules_.classes;
  options.top_k = rules_.top_k;
  options.coder = rules_.coder;
  options.input = head_type_;
  options.logit_threshold = logit_threshold.in<const float>(blocks.parameters);
  options.class_mask = class_mask.in<const uint8_t>(blocks.parameters);
  options.clip_sizes = clip_sizes.in<const float>(blocks.parameters);
  options.or_equal = rules_.or_equal;
  options.drop_empty = rules_.drop_empty;
  options.class_thresholds = class_thresholds.in<const float>(blocks.parameters);
  options.ignored = ignored.in<const float>(blocks.parameters);
  options.ignored_regions = kMaxRegions;
  options.top_k_anchors = rules_.top_k_anchors;
  options.rotated = rotated_ ? &*rotated_ : nullptr;
  return options;
}

void FramePlan::decode(const Blocks& blocks, const Stream& stream) const {
  std::vector<cuda::DeviceLevel> levels = levels_;
  for (size_t i = 0; i < levels.size(); ++i) {
    levels[i].logits = tensors[heads_[i].logits].in<const void>(blocks.device);
    levels[i].deltas = tensors[heads_[i].deltas].in<const void>(blocks.device);
    levels[i].base_anchors = blocks.base_anchors[i];
  }
  const cuda::DeviceCandidates candidates{candidate_boxes_.in<float>(blocks.device),
                                          candidate_logits_.in<float>(blocks.device),
                                          candidate_class_ids_.in<int32_t>(blocks.device),
                                          candidate_counts_.in<int32_t>(blocks.device),
                                          rescans.in<int32_t>(blocks.results),
                                          capacity_};
  cuda::decode(levels, decode_options(blocks), candidates, {scratch_.in<void>(blocks.device), scratch_.size_bytes},
               stream.handle());
}

cuda::DeviceNmsOptions FramePlan::nms_options() const {
  const NmsOptions& rules = suppression_.nms;
  return {rules.iou_threshold,    rules.max_detections, rules.or_equal,
          rules.inclusive_pixels, rules.across_classes, rules.max_per_class};
}

size_t FramePlan::suppress_scratch_bytes() const {
  switch (suppression_.op) {
    case SuppressionOp::kSoftNms:
      return cuda::soft_nms_scratch_bytes(
          batch_, capacity_, {nms_options(), suppression_.decay, suppression_.sigma, nullptr, rules_.classes});
    case SuppressionOp::kFuse:
      return cuda::fusion_scratch_bytes(
          batch_, capacity_, {nms_options(), suppression_.fused_score, ScoreScale::kLogit, 1, rules_.classes});
    default:
      return cuda::nms_scratch_bytes(batch_, capacity_, nms_options());
  }
}

void FramePlan::suppress(const Blocks& blocks, const Stream& stream) const {
  const cuda::DeviceCandidates candidates{candidate_boxes_.in<float>(blocks.device),
                                          candidate_logits_.in<float>(blocks.device),
                                          candidate_class_ids_.in<int32_t>(blocks.device),
                                          candidate_counts_.in<int32_t>(blocks.device),
                                          nullptr,
                                          capacity_};
  const cuda::Scratch scratch{scratch_.in<void>(blocks.device), scratch_.size_bytes};
  auto* const kept = kept_indices_.in<int32_t>(blocks.device);
  const cuda::DeviceDetections detections{kept, counts.in<int32_t>(blocks.results), boxes.in<float>(blocks.results),
                                          scores.in<float>(blocks.results), class_ids.in<int32_t>(blocks.results)};
  const cuda::DeviceScored scored{detections.boxes, detections.logits, detections.class_ids, detections.counts};
  switch (suppression_.op) {
    case SuppressionOp::kNms:
      return cuda::nms(batch_, candidates, nms_options(), detections, scratch, stream.handle());
    case SuppressionOp::kRotatedNms:
      return cuda::rotated_nms(batch_, candidates, nms_options(), suppression_.shares_angle, detections, scratch,
                               stream.handle());
    case SuppressionOp::kSoftNms: {
      const auto* const lowest = score_thresholds.in<const float>(blocks.parameters);
      return cuda::soft_nms(batch_, candidates,
                            {nms_options(), suppression_.decay, suppression_.sigma, lowest, rules_.classes}, kept,
                            scored, scratch, stream.handle());
    }
    case SuppressionOp::kFuse:
      return cuda::fuse(batch_, candidates,
                        {nms_options(), suppression_.fused_score, ScoreScale::kLogit, 1, rules_.classes}, scored,
                        scratch, stream.handle());
  }
}

}  // namespace retinasdk::runtime::trt
