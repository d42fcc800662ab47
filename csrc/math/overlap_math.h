// Every number and every comparison of soft NMS and of weighted boxes fusion, written once for host and device.
//
// As box_math.h, whose notes hold here too.
#pragma once

#include "math/box_math.h"

namespace retinasdk {
namespace {

// The sigmoid in double, rounded to float once. logit: not NaN.
RETINASDK_HOST_DEVICE float score_of(float logit) {
  if (logit > 700.0f) return 1.0f;
  if (logit < -700.0f) return 0.0f;
  return static_cast<float>(1.0 / (1.0 + exponential_double(-static_cast<double>(logit))));
}

// -- soft NMS --------------------------------------------------------------------------------------------------------

struct DecayRule {
  bool is_gaussian;
  float iou_limit;  // by strict_limit()
  float sigma;
};

// What is left of a score when a better box is taken that overlaps by `overlap`. A NaN of boxes too large for an IoU is
// no overlap.
RETINASDK_HOST_DEVICE float decayed(float score, float overlap, const DecayRule& rule) {
  if (!(overlap > 0.0f)) return score;
  if (!rule.is_gaussian) {
    if (!(overlap > rule.iou_limit)) return score;
    return overlap < 1.0f ? score * (1.0f - overlap) : 0.0f;
  }
  const double exponent = -static_cast<double>(overlap) * overlap / rule.sigma;
  return exponent < -700.0 ? 0.0f : score * static_cast<float>(exponential_double(exponent));
}

// Does a box stay whose score was `before` and is `after`?
RETINASDK_HOST_DEVICE bool survives(float before, float after, float threshold) {
  return !(after < before) || after > threshold;
}

// -- weighted boxes fusion -------------------------------------------------------------------------------------------

struct Cluster {
  double weight, x1, y1, x2, y2;  // sums over the members: of scores, and of scores times corners
  Box fused;
  float best;
  int32_t class_id;
  int members;
};

// NaN, infinity and 0 are no weights.
RETINASDK_HOST_DEVICE bool is_weight(float score) { return score > 0.0f && score <= 3.4028234e38f; }

RETINASDK_HOST_DEVICE Cluster founded(const Box& box, float score, int32_t class_id) {
  const double weight = score;
  return {weight, weight * box.x1, weight * box.y1, weight * box.x2, weight * box.y2, box, score, class_id, 1};
}

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

RETINASDK_HOST_DEVICE float fused_score(const Cluster& cluster, bool is_mean, int models) {
  const double score = is_mean ? cluster.weight / cluster.members : static_cast<double>(cluster.best);
  const double share = cluster.members < models ? static_cast<double>(cluster.members) / models : 1.0;
  const double product = score * share;
  return product < 1.0 ? static_cast<float>(product) : 1.0f;
}

}  // namespace
}  // namespace retinasdk
