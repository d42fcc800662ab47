// Every number and every comparison of post-processing, written once for host and device.
//
// *_cpu.cpp and *_cuda.cu decide who computes which element, in what memory; this header decides the result.
// Compile it without contraction (-ffp-contract=off, -fmad=false) and without fast-math: then both devices
// round alike. The unnamed namespace gives each object file its own copy, so host and device never mix.
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
// A box is (x1, y1, x2, y2) in pixels, edges continuous: its width is x2 - x1, without "+ 1", and the pixel in the
// upper left corner covers (0, 0, 1, 1). Where inclusive_pixels is set, as ODTK has it, x2 and y2 name the last pixel
// inside instead; outline() makes it the continuous box around these pixels, whose sides, area and IoU are then the
// same as everybody's.
struct Box {
  float x1, y1, x2, y2;
};

// Number i of boxes (n, 4).
RETINASDK_HOST_DEVICE Box box_at(const float* boxes, uint64_t i) {
  return {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
}

RETINASDK_HOST_DEVICE Box outline(const Box& box, bool inclusive_pixels) {
  return inclusive_pixels ? Box{box.x1, box.y1, box.x2 + 1.0f, box.y2 + 1.0f} : box;
}

RETINASDK_HOST_DEVICE Box anchor_box(const float* base, float stride_y, float stride_x, int row, int column) {
  const float shift_x = static_cast<float>(column) * stride_x;
  const float shift_y = static_cast<float>(row) * stride_y;
  return {base[0] + shift_x, base[1] + shift_y, base[2] + shift_x, base[3] + shift_y};
}

// Note [Exponential]
// exp(x), right to 1e-12: x = n ln 2 + r with |r| <= ln 2 / 2, then Taylor's series to r^11 and a shift of the
// exponent. Only IEEE additions, multiplications and bits, so that host and device give the same box to the last bit,
// which their own expf do not. 5000 boxes an image take two each: its cost is nothing. value: from -700 to 700.
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

// The same, rounded to float once, for any x.
RETINASDK_HOST_DEVICE float exponential(float x) {
  if (x != x) return x;
  if (x > 88.72284f) return x * 3.4028234e38f;  // beyond the largest float: infinity
  if (x < -104.0f) return 0.0f;                 // below half of the smallest
  return static_cast<float>(exponential_double(static_cast<double>(x)));
}

// Conditionals and not fminf: a NaN must stay NaN here, so that is_finite() can drop the box.
RETINASDK_HOST_DEVICE float clamp_log_size(float value, const BoxCoder& coder) {
  const float not_above = value > coder.clamp_max ? coder.clamp_max : value;
  return not_above < coder.clamp_min ? coder.clamp_min : not_above;
}

RETINASDK_HOST_DEVICE Box apply_deltas(const Box& base, const float (&delta)[4], const BoxCoder& coder) {
  const Box anchor = outline(base, coder.inclusive_pixels);
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

// A box that is not finite (from NaN or infinite deltas) is never a candidate.
RETINASDK_HOST_DEVICE bool is_finite(const Box& box) {
  const float limit = 3.4028234e38f;  // largest float; comparisons with NaN are false
  return fabsf(box.x1) <= limit && fabsf(box.y1) <= limit && fabsf(box.x2) <= limit && fabsf(box.y2) <= limit;
}

RETINASDK_HOST_DEVICE float clip_coordinate(float value, float size) {
  const float not_negative = value < 0.0f ? 0.0f : value;
  return not_negative > size ? size : not_negative;
}

// To [0, width] x [0, height]; a size below 0 means "leave that axis alone".
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

// Of an outline(): has it no area?
RETINASDK_HOST_DEVICE bool is_empty(const Box& box) { return !(box.x2 > box.x1 && box.y2 > box.y1); }

RETINASDK_HOST_DEVICE float area(const Box& box) { return (box.x2 - box.x1) * (box.y2 - box.y1); }

// Do two outlines overlap, and with what area?
RETINASDK_HOST_DEVICE bool overlaps(const Box& a, const Box& b, float& shared) {
  const float left = a.x1 > b.x1 ? a.x1 : b.x1;
  const float top = a.y1 > b.y1 ? a.y1 : b.y1;
  const float right = a.x2 < b.x2 ? a.x2 : b.x2;
  const float bottom = a.y2 < b.y2 ? a.y2 : b.y2;
  shared = (right - left) * (bottom - top);
  return right > left && bottom > top;
}

// Regions (count, 4) xyxy, edges continuous, of which the first without area ends the list.
struct IgnoredRegions {
  const float* boxes;
  int count;
};

// Does more than half of an outline's area lie in one of the regions?
RETINASDK_HOST_DEVICE bool is_ignored(const Box& box, const IgnoredRegions& regions) {
  for (int i = 0; i < regions.count; ++i) {
    const Box region = box_at(regions.boxes, static_cast<uint64_t>(i));
    if (is_empty(region)) return false;
    float shared;
    if (overlaps(box, region, shared) && shared > 0.5f * area(box)) return true;
  }
  return false;
}

// What a box must be to become a candidate.
struct BoxLimits {
  float width, height;  // of clip()
  bool drop_empty;      // boxes without area after clipping are none
  IgnoredRegions ignored;
};

// The clipped box of an anchor, and whether it is a candidate.
RETINASDK_HOST_DEVICE bool decode_box(const Box& anchor, const float (&delta)[4], const BoxCoder& coder,
                                      const BoxLimits& limits, Box& box) {
  const Box decoded = apply_deltas(anchor, delta, coder);
  box = clip(decoded, limits.width, limits.height);
  const Box outlined = outline(box, coder.inclusive_pixels);
  return is_finite(decoded) && !(limits.drop_empty && is_empty(outlined)) && !is_ignored(outlined, limits.ignored);
}

// What `>` is to be asked with, where values at the threshold itself count too: the next float below. Below -infinity
// there is none, so -infinity is never above.
RETINASDK_HOST_DEVICE float strict_limit(float threshold, bool or_equal) {
  const float largest = 3.4028234e38f;
  if (!or_equal || threshold != threshold || threshold < -largest) return threshold;
  const float value = threshold + 0.0f;  // one kind of 0
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = bits == 0u ? 0x80000001u : (bits & 0x80000000u) != 0u ? bits + 1u : bits - 1u;
  float below;
  memcpy(&below, &bits, sizeof below);
  return below;
}

// Strictly above, so NaN never passes. filter_cpu.cpp holds the same comparison, eight values at a time.
RETINASDK_HOST_DEVICE bool passes(float logit, float threshold) { return logit > threshold; }

// Note [Rank]
// One integer orders candidates: a higher logit first, then the lower index. Smaller keys are better. The order is
// total, so whatever algorithm sorts or selects gives the same answer on every device, and it depends on no function of
// the math library. Logits must not be NaN; -0 counts as +0.
RETINASDK_HOST_DEVICE uint64_t rank_key(float logit, uint32_t index) {
  const float value = logit + 0.0f;
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t ascending = bits ^ ((bits & 0x80000000u) != 0u ? 0xffffffffu : 0x80000000u);
  return (static_cast<uint64_t>(~ascending) << 32) | index;
}

RETINASDK_HOST_DEVICE uint32_t index_of(uint64_t key) { return static_cast<uint32_t>(key); }

RETINASDK_HOST_DEVICE float logit_of(uint64_t key) {
  const uint32_t ascending = ~static_cast<uint32_t>(key >> 32);
  const uint32_t bits = ascending ^ ((ascending & 0x80000000u) != 0u ? 0x80000000u : 0xffffffffu);
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Intersection over union of two outlines ([Box convention]); 0 where they do not overlap.
RETINASDK_HOST_DEVICE float iou(const Box& a, const Box& b) {
  float shared;
  if (!overlaps(a, b, shared)) return 0.0f;
  return shared / (area(a) + area(b) - shared);
}

// Does a kept box remove another of the same class? Of outlines; `limit` is the IoU threshold, by strict_limit().
RETINASDK_HOST_DEVICE bool suppresses(const Box& kept, const Box& other, float limit) {
  return iou(kept, other) > limit;
}

}  // namespace
}  // namespace retinasdk
