// Post-processing on the CPU: from head outputs to detections. The counterpart of retinasdk/pipeline/postprocess.py.
// See Note [Why a box is missing] there.
#pragma once

#include <vector>

#include "runtime/backend.h"

namespace retinasdk::runtime {

// The raw outputs of both heads of N images, for each level: logits (N, A * K, h, w) and deltas (N, A * D, h, w).
struct HeadOutputs {
  std::vector<const float*> logits, deltas;
  std::vector<Shape> logit_shapes, delta_shapes;
};

// Decodes head outputs and resolves overlapping boxes. The first `transforms.size()` images count. Throws ModelError if
// the outputs do not fit the spec.
std::vector<Kept> decode_and_suppress(const HeadOutputs& heads, const ModelSpec& spec, const Suppression& suppression,
                                      const std::vector<Transform>& transforms, const DetectOptions& options);

// The objects found in one image, best first, in pixels of the original image.
struct Found {
  std::vector<float> xyxy;  // (n, 4). Around the rotated boxes, if there are any.
  std::vector<float> scores;
  std::vector<int32_t> class_ids;
  std::vector<float> xywhr;  // (n, 5), or empty for upright boxes.
};

// Converts boxes to pixels of the original image, and applies the clipping and dropping that follow NMS.
Found to_original(Kept kept, const ModelSpec& spec, const Transform& transform);

}  // namespace retinasdk::runtime
