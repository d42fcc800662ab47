// Every number and every comparison of post-processing, written once for host and device.
//
// *_cpu.cpp and *_cuda.cu decide who computes which element, in what memory; this header decides the result.
// Compile it without contraction (-ffp-contract=off, -fmad=false) and without fast-math: then both devices
// round alike. The unnamed namespace gives each object file its own copy, so host and device never mix.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define RETINASDK_HOST_DEVICE __host__ __device__ inline
#else
#define RETINASDK_HOST_DEVICE inline
#endif

namespace retinasdk {
namespace {

// Note [Box convention]
// A box is (x1, y1, x2, y2) in pixels, edges continuous: its width is x2 - x1, without "+ 1", and the pixel in
// the upper left corner covers (0, 0, 1, 1).
struct Box {
  float x1, y1, x2, y2;
};

// Faster R-CNN's coding (Ren et al. 2015, equation 2): deltas are (dx, dy, dw, dh), each divided by its weight.
// clamp_max bounds dw and dh from above before exp; infinity means no bound.
struct BoxCoder {
  float weights[4];
  float clamp_max;
};

RETINASDK_HOST_DEVICE Box anchor_box(const float* base, float stride_y, float stride_x, int row, int column) {
  const float shift_x = static_cast<float>(column) * stride_x;
  const float shift_y = static_cast<float>(row) * stride_y;
  return {base[0] + shift_x, base[1] + shift_y, base[2] + shift_x, base[3] + shift_y};
}

// Note [Exponential]
// exp(x), rounded to float from a double that is right to 1e-12: x = n ln 2 + r with |r| <= ln 2 / 2, then Taylor's
// series to r^11 and a shift of the exponent. Only IEEE additions, multiplications and bits, so that host and device
// give the same box to the last bit, which their own expf do not. 5000 boxes an image take two each: its cost is
// nothing.
RETINASDK_HOST_DEVICE float exponential(float x) {
  if (x != x) return x;
  if (x > 88.72284f) return x * 3.4028234e38f;  // beyond the largest float: infinity
  if (x < -104.0f) return 0.0f;                 // below half of the smallest
  const double value = static_cast<double>(x);
  const double n = floor(value * 1.4426950408889634 + 0.5);
  const double r = value - n * 0.6931471805599453;
  double sum = 1.0;
  for (int k = 11; k > 0; --k) sum = 1.0 + sum * r / k;
  const int64_t exponent_bits = (static_cast<int64_t>(n) + 1023) << 52;
  double power;
  memcpy(&power, &exponent_bits, sizeof power);
  return static_cast<float>(sum * power);
}

// A conditional and not fminf: a NaN must stay NaN here, so that is_finite() can drop the box.
RETINASDK_HOST_DEVICE float clamp_log_size(float value, float clamp_max) {
  return value > clamp_max ? clamp_max : value;
}

RETINASDK_HOST_DEVICE Box apply_deltas(const Box& anchor, const float (&delta)[4], const BoxCoder& coder) {
  const float anchor_width = anchor.x2 - anchor.x1;
  const float anchor_height = anchor.y2 - anchor.y1;
  const float center_x = delta[0] / coder.weights[0] * anchor_width + (anchor.x1 + 0.5f * anchor_width);
  const float center_y = delta[1] / coder.weights[1] * anchor_height + (anchor.y1 + 0.5f * anchor_height);
  const float half_width =
      0.5f * (exponential(clamp_log_size(delta[2] / coder.weights[2], coder.clamp_max)) * anchor_width);
  const float half_height =
      0.5f * (exponential(clamp_log_size(delta[3] / coder.weights[3], coder.clamp_max)) * anchor_height);
  return {center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height};
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

RETINASDK_HOST_DEVICE float area(const Box& box) { return (box.x2 - box.x1) * (box.y2 - box.y1); }

// Intersection over union of two boxes ([Box convention]); 0 where they do not overlap.
RETINASDK_HOST_DEVICE float iou(const Box& a, const Box& b) {
  const float left = a.x1 > b.x1 ? a.x1 : b.x1;
  const float top = a.y1 > b.y1 ? a.y1 : b.y1;
  const float right = a.x2 < b.x2 ? a.x2 : b.x2;
  const float bottom = a.y2 < b.y2 ? a.y2 : b.y2;
  if (!(right > left && bottom > top)) return 0.0f;
  const float intersection = (right - left) * (bottom - top);
  return intersection / (area(a) + area(b) - intersection);
}

// Does a kept box remove another of the same class? Strictly above the threshold, as torchvision and detectron2.
RETINASDK_HOST_DEVICE bool suppresses(const Box& kept, const Box& other, float iou_threshold) {
  return iou(kept, other) > iou_threshold;
}

}  // namespace
}  // namespace retinasdk
