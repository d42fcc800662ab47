// The arithmetic and the comparisons of soft NMS and weighted boxes fusion, written once for the CPU and the GPU.
//
// The rules and notes of box_math.h also apply here.
#pragma once

#include "math/box_math.h"

namespace retinasdk {
namespace {

// Returns the sigmoid of a logit, computed in double and rounded to float once. The logit must not be NaN.
RETINASDK_HOST_DEVICE float score_of(float logit) {
  if (logit > 700.0f) return 1.0f;
  if (logit < -700.0f) return 0.0f;
  return static_cast<float>(1.0 / (1.0 + exponential_double(-static_cast<double>(logit))));
}

// -- soft NMS --------------------------------------------------------------------------------------------------------

// How scores decay, see Decay in overlap_rules.h.
struct DecayRule {
  bool is_gaussian;
  float iou_limit;  // strict_limit() of the IoU threshold.
  float sigma;
};

// Returns the score of a box after a better box was kept whose IoU with it is `overlap`. The IoU of boxes whose areas
// exceed the float range is NaN. It counts as no overlap.
RETINASDK_HOST_DEVICE float decayed(float score, float overlap, const DecayRule& rule) {
  if (!(overlap > 0.0f)) return score;
  if (!rule.is_gaussian) {
    if (!(overlap > rule.iou_limit)) return score;
    return overlap < 1.0f ? score * (1.0f - overlap) : 0.0f;
  }
  const double exponent = -static_cast<double>(overlap) * overlap / rule.sigma;
  return exponent < -700.0 ? 0.0f : score * static_cast<float>(exponential_double(exponent));
}

// Whether a box remains after its score changed from `before` to `after`. A box whose score did not decay remains.
RETINASDK_HOST_DEVICE bool survives(float before, float after, float threshold) {
  return !(after < before) || after > threshold;
}

// -- weighted boxes fusion -------------------------------------------------------------------------------------------

// A cluster of overlapping candidates that become one box.
struct Cluster {
  double weight;          // The sum of the members' scores.
  double x1, y1, x2, y2;  // The sums of the members' scores times their corners.
  Box fused;              // The weighted mean of the members' boxes.
  float best;             // The highest score, which is that of the first member.
  int32_t class_id;       // The class of the first member.
  int members;            // The number of members.
};

// Whether a score can be used as a weight: it is above 0 and finite.
RETINASDK_HOST_DEVICE bool is_weight(float score) { return score > 0.0f && score <= 3.4028234e38f; }

// Returns a cluster with one member.
RETINASDK_HOST_DEVICE Cluster new_cluster(const Box& box, float score, int32_t class_id) {
  const double weight = score;
  return {weight, weight * box.x1, weight * box.y1, weight * box.x2, weight * box.y2, box, score, class_id, 1};
}

// Adds a member to a cluster and updates the fused box.
RETINASDK_HOST_DEVICE void join(Cluster& cluster, const Box& box, float score) {
  const double weight = score;
  cluster.weight += weight;
  cluster.x1 += weight * box.x1;
  cluster.y1 += weight * box.y1;
  cluster.x2 += weight * box.x2;
  cluster.y2 += weight * box.y2;
  cluster.fused = {static_cast<float>(cluster.x1 / cluster.weight), static_cast<float>(cluster.y1 / cluster.weight),
                   static_cast<float>(cluster.x2 / cluster.weight), static_cast<float>(cluster.y2 / cluster.weight)};
  ++cluster.members;
}

// Returns the score of a cluster's fused box, see fuse() in ops.h.
RETINASDK_HOST_DEVICE float fused_score(const Cluster& cluster, bool is_mean, int models) {
  const double score = is_mean ? cluster.weight / cluster.members : static_cast<double>(cluster.best);
  const double share = cluster.members < models ? static_cast<double>(cluster.members) / models : 1.0;
  const double product = score * share;
  return product < 1.0 ? static_cast<float>(product) : 1.0f;
}

}  // namespace
}  // namespace retinasdk
