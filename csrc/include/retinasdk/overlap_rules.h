// Which rule soft NMS and weighted boxes fusion follow; of ops.h and ops_cuda.h alike.
#pragma once

namespace retinasdk {

// How a score falls when a better box of its class is taken that overlaps by IoU (Bodla et al., Soft-NMS, 2017,
// arXiv:1704.04503).
enum class Decay {
  kLinear,    // times 1 - IoU, where NmsOptions suppresses
  kGaussian,  // times exp(-IoU^2 / sigma), whatever the IoU
};

// What Candidates::logits hold for fuse().
enum class ScoreScale {
  kLogit,
  kProbability,  // 0 and above; more than 1 where a model's weight is in it
};

// Of a cluster, from its members'.
enum class FusedScore { kMean, kBest };

}  // namespace retinasdk
