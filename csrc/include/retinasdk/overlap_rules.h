// The rules that soft NMS and weighted boxes fusion can follow. Used by ops.h and by ops_cuda.h.
#pragma once

namespace retinasdk {

// How soft NMS lowers the score of a box that overlaps a better box of its class (Bodla et al., "Soft-NMS", 2017,
// arXiv:1704.04503). `IoU` is the intersection over union of the two boxes.
enum class Decay {
  kLinear,    // score * (1 - IoU), where the IoU is above NmsOptions::iou_threshold. Otherwise the score stays.
  kGaussian,  // score * exp(-IoU^2 / sigma), for every IoU above 0. The IoU threshold is not used.
};

// What the `logits` of the candidates contain when they are given to fuse().
enum class ScoreScale {
  kLogit,        // Logits. fuse() takes their sigmoid.
  kProbability,  // Scores of 0 or more. A score may be above 1 where it was multiplied with a weight of its model.
};

// How the score of a fused box follows from the scores of the boxes in its cluster.
enum class FusedScore {
  kMean,  // Their mean.
  kBest,  // The highest of them.
};

}  // namespace retinasdk
