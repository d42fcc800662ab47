// The memory layout of a lane, for one shape of the network's input. The counterpart of
// retinasdk/tensorrt/frame_plan.py.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/rules.h"
#include "runtime/tensorrt/device.h"
#include "runtime/tensorrt/graph_runner.h"
#include "runtime/tensorrt/head_layout.h"

namespace retinasdk::runtime::trt {

// The element type of the kernels for FLOAT or HALF.
inline cuda::Scalar scalar_of(nvinfer1::DataType type) {
  return type == nvinfer1::DataType::kHALF ? cuda::Scalar::kFloat16 : cuda::Scalar::kFloat32;
}

// Lays out three blocks of memory, and launches decoding and suppression on them.
//
// The device block holds the network's tensors, the candidates and scratch memory. The parameter block holds what a
// call sets and needs one upload. The result block holds what a call returns and needs one download. Arrays hold the
// values of all images of the batch, image after image.
class FramePlan {
 public:
  // The addresses of the three blocks on the GPU, and of the base anchors of each level.
  struct Blocks {
    std::byte *device, *parameters, *results;
    const std::vector<const float*>& base_anchors;
  };

  // outputs: how each output of the network lies in memory. Throws ModelError if they do not fit the spec.
  FramePlan(const ModelSpec& spec, const Suppression& suppression, const InputShape& shape,
            nvinfer1::DataType input_type, std::vector<OutputMemory> outputs);

  // Launch the kernels.
  void decode(const Blocks& blocks, const Stream& stream) const;
  void suppress(const Blocks& blocks, const Stream& stream) const;

  const std::vector<OutputMemory>& outputs() const { return outputs_; }
  int batch() const { return batch_; }
  int classes() const { return rules_.classes; }
  int room() const { return suppression_.nms.max_detections; }  // Of an image, in boxes.
  size_t values() const { return values_; }                     // Of a box.
  // Whether `scores` holds logits.
  bool gives_logits() const {
    return suppression_.op == SuppressionOp::kNms || suppression_.op == SuppressionOp::kRotatedNms;
  }

  // In the device block.
  Field input;
  std::vector<Field> tensors;  // Of each output.
  size_t device_bytes = 0;
  // In the parameter block.
  Field logit_threshold;   // The lowest threshold of all classes, as a logit.
  Field clip_sizes;        // (images, 2).
  Field class_thresholds;  // (classes,), as logits.
  Field score_thresholds;  // (classes,).
  Field ignored;           // (images, kMaxRegions, 4). A region without area ends the list.
  Field class_mask;        // (classes,). 1 for each class that is wanted.
  size_t parameter_bytes = 0;
  // In the result block.
  Field counts;     // (images,).
  Field rescans;    // (images,), the number of feature levels that the decode kernel had to read twice.
  Field boxes;      // (images, room, values).
  Field scores;     // (images, room), scores or logits.
  Field class_ids;  // (images, room).
  size_t result_bytes = 0;

 private:
  // The place of a head output among the outputs, with its dtype, sizes and strides in `levels_`.
  struct Head {
    size_t logits, deltas;
  };

  cuda::DeviceDecodeOptions decode_options(const Blocks& blocks) const;
  size_t suppress_scratch_bytes() const;
  cuda::DeviceNmsOptions nms_options() const;

  int batch_;
  size_t values_;
  int capacity_;  // Of candidates of an image.
  DecodeOptions rules_;
  std::optional<RotatedCoder> rotated_;
  SuppressionRules suppression_;
  std::vector<OutputMemory> outputs_;
  std::vector<Head> heads_;
  std::vector<cuda::DeviceLevel> levels_;  // Without addresses.
  cuda::Scalar head_type_{};
  Field candidate_boxes_, candidate_logits_, candidate_class_ids_, candidate_counts_, kept_indices_, scratch_;
};

}  // namespace retinasdk::runtime::trt
