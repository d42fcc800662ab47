// The arithmetic and the comparisons of post-processing, written once for the CPU and the GPU.
//
// The *_cpu.cpp and *_cuda.cu files decide which thread computes which element, and in which memory. This header
// decides the result. It must be compiled without contraction (-ffp-contract=off, -fmad=false) and without fast-math,
// so that both devices round in the same way. The unnamed namespace gives each object file its own copy, so the linker
// cannot mix functions that were compiled for different devices or instruction sets.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "retinasdk/box_coder.h"

#ifdef __CUDACC__
#define RETINASDK_HOST_DEVICE __host__ __device__ inline
#else
#define RETINASDK_HOST_DEVICE inline
#endif

namespace retinasdk {
namespace {

// Note [Box convention]
// A box is (x1, y1, x2, y2) in pixels, in continuous coordinates. Its width is x2 - x1, without "+ 1". The pixel in the
// upper left corner of the image covers (0, 0, 1, 1).
// With inclusive_pixels, x2 and y2 name the last pixel inside the box instead. NVIDIA's ODTK uses this convention.
// continuous_box() converts such a box to continuous coordinates by adding 1 to x2 and y2. Sizes, areas and IoUs are
// computed from continuous boxes only.
struct Box {
  float x1, y1, x2, y2;
};

// Returns row i of boxes (n, 4).
RETINASDK_HOST_DEVICE Box box_at(const float* boxes, uint64_t i) {
  return {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
}

// Returns the box in continuous coordinates, see Note [Box convention].
RETINASDK_HOST_DEVICE Box continuous_box(const Box& box, bool inclusive_pixels) {
  return inclusive_pixels ? Box{box.x1, box.y1, box.x2 + 1.0f, box.y2 + 1.0f} : box;
}

// Returns the anchor of a cell: the base anchor (4,), moved by whole strides.
RETINASDK_HOST_DEVICE Box anchor_box(const float* base, float stride_y, float stride_x, int row, int column) {
  const float shift_x = static_cast<float>(column) * stride_x;
  const float shift_y = static_cast<float>(row) * stride_y;
  return {base[0] + shift_x, base[1] + shift_y, base[2] + shift_x, base[3] + shift_y};
}

// Note [Exponential]
// Computes exp(value) with a relative error below 1e-12, for values of -700 to 700.
// The method: value = n * ln 2 + r with |r| <= ln 2 / 2. Then exp(r) is Taylor's series up to r^11, and n is added to
// the exponent of the result.
// It uses only IEEE arithmetic and bit operations. Therefore the CPU and the GPU compute the same box, bit for bit. The
// expf() of their math libraries differ in the last bit.
// An image has at most some thousand candidates with two calls each, so the cost does not matter.
RETINASDK_HOST_DEVICE double exponential_double(double value) {
  const double n = floor(value * 1.4426950408889634 + 0.5);
  const double r = value - n * 0.6931471805599453;
  double sum = 1.0;
  for (int k = 11; k > 0; --k) sum = 1.0 + sum * r / k;
  const int64_t exponent_bits = (static_cast<int64_t>(n) + 1023) << 52;
  double power;
  memcpy(&power, &exponent_bits, sizeof power);
  return sum * power;
}

// Computes exp(x) for any x, rounded to float32 once. See Note [Exponential].
RETINASDK_HOST_DEVICE float exponential(float x) {
  if (x != x) return x;
  if (x > 88.72284f) return x * 3.4028234e38f;  // Above the largest float: the product is infinity.
  if (x < -104.0f) return 0.0f;                 // Below half of the smallest float.
  return static_cast<float>(exponential_double(static_cast<double>(x)));
}

// Clamps dw or dh. It uses conditionals instead of fminf(), because a NaN must stay NaN: is_finite() then drops the
// box.
RETINASDK_HOST_DEVICE float clamp_log_size(float value, const BoxCoder& coder) {
  const float not_above = value > coder.clamp_max ? coder.clamp_max : value;
  return not_above < coder.clamp_min ? coder.clamp_min : not_above;
}

// Decodes the deltas of an anchor, see box_coder.h. The result follows the convention of the anchor.
RETINASDK_HOST_DEVICE Box apply_deltas(const Box& base, const float (&delta)[4], const BoxCoder& coder) {
  const Box anchor = continuous_box(base, coder.inclusive_pixels);
  const float anchor_width = anchor.x2 - anchor.x1;
  const float anchor_height = anchor.y2 - anchor.y1;
  float move[4];
  for (int i = 0; i < 4; ++i) move[i] = delta[i] / coder.weights[i] + coder.means[i];
  Box box;
  if (coder.coding == BoxCoding::kCorner) {
    box = {anchor.x1 + move[0] * anchor_width, anchor.y1 + move[1] * anchor_height, anchor.x2 + move[2] * anchor_width,
           anchor.y2 + move[3] * anchor_height};
  } else {
    const float center_x = move[0] * anchor_width + (anchor.x1 + 0.5f * anchor_width);
    const float center_y = move[1] * anchor_height + (anchor.y1 + 0.5f * anchor_height);
    const float half_width = 0.5f * (exponential(clamp_log_size(move[2], coder)) * anchor_width);
    const float half_height = 0.5f * (exponential(clamp_log_size(move[3], coder)) * anchor_height);
    box = {center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height};
  }
  return coder.inclusive_pixels ? Box{box.x1, box.y1, box.x2 - 1.0f, box.y2 - 1.0f} : box;
}

// Whether all four coordinates are finite. NaN or infinite deltas give a box that is not, and that is no candidate.
RETINASDK_HOST_DEVICE bool is_finite(const Box& box) {
  const float limit = 3.4028234e38f;  // The largest float. Comparisons with NaN are false.
  return fabsf(box.x1) <= limit && fabsf(box.y1) <= limit && fabsf(box.x2) <= limit && fabsf(box.y2) <= limit;
}

RETINASDK_HOST_DEVICE float clip_coordinate(float value, float size) {
  const float not_negative = value < 0.0f ? 0.0f : value;
  return not_negative > size ? size : not_negative;
}

// Clips a box to [0, width] x [0, height]. A negative size leaves its axis unclipped.
RETINASDK_HOST_DEVICE Box clip(const Box& box, float width, float height) {
  Box clipped = box;
  if (width >= 0.0f) {
    clipped.x1 = clip_coordinate(box.x1, width);
    clipped.x2 = clip_coordinate(box.x2, width);
  }
  if (height >= 0.0f) {
    clipped.y1 = clip_coordinate(box.y1, height);
    clipped.y2 = clip_coordinate(box.y2, height);
  }
  return clipped;
}

// Whether a continuous box has no area.
RETINASDK_HOST_DEVICE bool is_empty(const Box& box) { return !(box.x2 > box.x1 && box.y2 > box.y1); }

// Returns the area of a continuous box.
RETINASDK_HOST_DEVICE float area(const Box& box) { return (box.x2 - box.x1) * (box.y2 - box.y1); }

// Whether two continuous boxes overlap. Sets `shared` to the area of their intersection if they do.
RETINASDK_HOST_DEVICE bool overlaps(const Box& a, const Box& b, float& shared) {
  const float left = a.x1 > b.x1 ? a.x1 : b.x1;
  const float top = a.y1 > b.y1 ? a.y1 : b.y1;
  const float right = a.x2 < b.x2 ? a.x2 : b.x2;
  const float bottom = a.y2 < b.y2 ? a.y2 : b.y2;
  shared = (right - left) * (bottom - top);
  return right > left && bottom > top;
}

// The regions to ignore in an image: continuous boxes (count, 4). A region without area ends the list.
struct IgnoredRegions {
  const float* boxes;
  int count;
};

// Whether more than half of the area of a continuous box lies inside one of the regions.
RETINASDK_HOST_DEVICE bool is_ignored(const Box& box, const IgnoredRegions& regions) {
  for (int i = 0; i < regions.count; ++i) {
    const Box region = box_at(regions.boxes, static_cast<uint64_t>(i));
    if (is_empty(region)) return false;
    float shared;
    if (overlaps(box, region, shared) && shared > 0.5f * area(box)) return true;
  }
  return false;
}

// The conditions that a box must meet to become a candidate.
struct BoxLimits {
  float width, height;  // For clip().
  bool drop_empty;      // Whether boxes without area after clipping are dropped.
  IgnoredRegions ignored;
};

// Decodes and clips the box of an anchor. Returns whether it meets the limits.
RETINASDK_HOST_DEVICE bool decode_box(const Box& anchor, const float (&delta)[4], const BoxCoder& coder,
                                      const BoxLimits& limits, Box& box) {
  const Box decoded = apply_deltas(anchor, delta, coder);
  box = clip(decoded, limits.width, limits.height);
  const Box continuous = continuous_box(box, coder.inclusive_pixels);
  return is_finite(decoded) && !(limits.drop_empty && is_empty(continuous)) && !is_ignored(continuous, limits.ignored);
}

// Turns a threshold into the limit of a strict comparison: `value > limit`. With or_equal, the limit is the next float
// below the threshold, so a value that equals the threshold passes. There is no float below -infinity, so a value of
// -infinity never passes.
RETINASDK_HOST_DEVICE float strict_limit(float threshold, bool or_equal) {
  const float largest = 3.4028234e38f;
  if (!or_equal || threshold != threshold || threshold < -largest) return threshold;
  const float value = threshold + 0.0f;  // Turns -0 into +0.
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = bits == 0u ? 0x80000001u : (bits & 0x80000000u) != 0u ? bits + 1u : bits - 1u;
  float below;
  memcpy(&below, &bits, sizeof below);
  return below;
}

// Returns -infinity. NVRTC does not know the macro INFINITY.
RETINASDK_HOST_DEVICE float minus_infinity() {
  const uint32_t bits = 0xff800000u;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Whether a logit is above the limit. NaN never is. filter_cpu.cpp contains the same comparison for vectors.
RETINASDK_HOST_DEVICE bool passes(float logit, float threshold) { return logit > threshold; }

// Note [Rank]
// Candidates are ordered by one 64-bit key: a higher logit first, then the lower index. Smaller keys are better.
// The order is total. Therefore every algorithm that sorts or selects gives the same result, on every device.
// The key is computed with bit operations only and needs no function of the math library.
// Logits must not be NaN. -0 and +0 are equal.
RETINASDK_HOST_DEVICE uint64_t rank_key(float logit, uint32_t index) {
  const float value = logit + 0.0f;
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t ascending = bits ^ ((bits & 0x80000000u) != 0u ? 0xffffffffu : 0x80000000u);
  return (static_cast<uint64_t>(~ascending) << 32) | index;
}

// Returns the index in a key.
RETINASDK_HOST_DEVICE uint32_t index_of(uint64_t key) { return static_cast<uint32_t>(key); }

// Returns the logit in a key.
RETINASDK_HOST_DEVICE float logit_of(uint64_t key) {
  const uint32_t ascending = ~static_cast<uint32_t>(key >> 32);
  const uint32_t bits = ascending ^ ((ascending & 0x80000000u) != 0u ? 0x80000000u : 0xffffffffu);
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Returns the intersection over union (IoU) of two continuous boxes: 0 if they do not overlap.
RETINASDK_HOST_DEVICE float iou(const Box& a, const Box& b) {
  float shared;
  if (!overlaps(a, b, shared)) return 0.0f;
  return shared / (area(a) + area(b) - shared);
}

// Whether a kept box suppresses another box of its class. Both are continuous; `limit` is strict_limit() of the IoU
// threshold.
RETINASDK_HOST_DEVICE bool suppresses(const Box& kept, const Box& other, float limit) {
  return iou(kept, other) > limit;
}

}  // namespace
}  // namespace retinasdk
