// The source pixels and weights of each output pixel of a resize, written once for the CPU and the GPU.
//
// A resize is separable. On each axis, an output position is the weighted sum of consecutive source positions, which
// are called taps. `step` is the distance between the source positions of two neighboring output positions.
//   bilinear:     two taps around (i + 0.5) * step - 0.5, as in PyTorch's interpolate(align_corners=False)
//   antialiased:  a triangle filter that widens with the reduction, with weights that sum to 1, as in Pillow's BILINEAR
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define RETINASDK_HOST_DEVICE_RESIZE __host__ __device__ inline
#else
#define RETINASDK_HOST_DEVICE_RESIZE inline
#endif

namespace retinasdk {
namespace {

// Returns the step of an axis: the given one, or in / out if that is 0.
RETINASDK_HOST_DEVICE_RESIZE float source_step(int in, int out, double given) {
  return given > 0.0 ? static_cast<float>(given) : static_cast<float>(in) / static_cast<float>(out);
}

// The same as OpenCV computes it, by way of the scale.
RETINASDK_HOST_DEVICE_RESIZE double opencv_step(int in, int out, double given) {
  return given > 0.0 ? given : 1.0 / (static_cast<double>(out) / in);
}

// Returns an upper bound of the number of taps of one output position.
RETINASDK_HOST_DEVICE_RESIZE int max_taps(float step, bool antialias) {
  if (!antialias || step <= 1.0f) return 2;
  return 2 * static_cast<int>(ceilf(step)) + 1;
}

// Computes the taps of output position i. Returns their number, sets *first to the first source position, and fills
// that many weights. With antialias, the step must be in / out.
RETINASDK_HOST_DEVICE_RESIZE int source_taps(int i, int in, float step, bool antialias, int* first, float* weights) {
  if (!antialias || step <= 1.0f) {
    const float center = step * (static_cast<float>(i) + 0.5f) - 0.5f;
    const float position = center < 0.0f ? 0.0f : center;
    // Compared before it becomes an integer, because a large step could exceed the integers.
    const int lower = position < static_cast<float>(in - 1) ? static_cast<int>(position) : in - 1;
    const float upper_weight = lower < in - 1 ? position - static_cast<float>(lower) : 0.0f;
    *first = lower;
    weights[0] = 1.0f - upper_weight;
    if (lower == in - 1) return 1;
    weights[1] = upper_weight;
    return 2;
  }
  const float center = step * (static_cast<float>(i) + 0.5f);
  const int begin_unclipped = static_cast<int>(center - step + 0.5f);
  const int end_unclipped = static_cast<int>(center + step + 0.5f);
  const int begin = begin_unclipped > 0 ? begin_unclipped : 0;
  const int end = end_unclipped < in ? end_unclipped : in;
  float sum = 0.0f;
  for (int source = begin; source < end; ++source) {
    const float distance = fabsf((static_cast<float>(source) + 0.5f - center) / step);
    const float weight = distance < 1.0f ? 1.0f - distance : 0.0f;
    weights[source - begin] = weight;
    sum += weight;
  }
  for (int tap = 0; tap < end - begin; ++tap) weights[tap] = weights[tap] / sum;
  *first = begin;
  return end - begin;
}

// Note [Eight bits]
// Frameworks that resize 8-bit images round on the way, so the resized pixels are whole numbers. Both libraries first
// resize along the rows, then along the columns, with weights that are whole numbers. The arithmetic below gives their
// pixels bit for bit.
//   Pillow (antialias):   weights are multiples of 2^-22. The result of each direction is rounded to 8 bits.
//   OpenCV (otherwise):   weights are multiples of 2^-11. Each direction drops low bits, and only the second one
//   rounds.
constexpr int kPillowBits = 22;
constexpr int kOpenCvOne = 1 << 11;

// The taps of one output position, with whole weights. There is room for max_whole_taps() weights.
struct WholeTaps {
  int first;         // The first source position.
  int count;         // The number of source positions.
  int32_t* weights;  // OpenCV always has two weights; with count 1 both belong to `first`.
};

// Returns an upper bound of the number of weights of one output position.
RETINASDK_HOST_DEVICE_RESIZE int max_whole_taps(int in, int out, bool antialias) {
  if (!antialias || in <= out) return 3;
  return 2 * static_cast<int>(ceil(static_cast<double>(in) / out)) + 1;
}

// Computes the taps of output position i as Pillow's BILINEAR does.
RETINASDK_HOST_DEVICE_RESIZE void pillow_taps(int i, int in, int out, WholeTaps& taps) {
  const double step = static_cast<double>(in) / out;
  const double support = step < 1.0 ? 1.0 : step;
  const double center = (i + 0.5) * step;
  const int begin = static_cast<int>(center - support + 0.5);
  const int end = static_cast<int>(center + support + 0.5);
  taps.first = begin > 0 ? begin : 0;
  taps.count = (end < in ? end : in) - taps.first;
  const double inverse = 1.0 / support;
  // The weights are computed twice, so that they need no room as double.
  double sum = 0.0;
  for (int pass = 0; pass < 2; ++pass) {
    for (int tap = 0; tap < taps.count; ++tap) {
      const double distance = fabs((tap + taps.first - center + 0.5) * inverse);
      const double weight = distance < 1.0 ? 1.0 - distance : 0.0;
      if (pass == 0) sum += weight;
      if (pass == 1) taps.weights[tap] = static_cast<int32_t>(0.5 + weight / sum * (1 << kPillowBits));
    }
  }
}

// Computes the taps of output position i as OpenCV's INTER_LINEAR does. Columns are clamped before the weights are
// rounded, rows are not.
RETINASDK_HOST_DEVICE_RESIZE void opencv_taps(int i, int in, double step, bool is_row, WholeTaps& taps) {
  const float center = static_cast<float>((i + 0.5) * step - 0.5);
  int lower = center < static_cast<float>(in) ? static_cast<int>(floorf(center)) : in;
  float upper_weight = center < static_cast<float>(in) ? center - static_cast<float>(lower) : 0.0f;
  if (!is_row && lower < 0) lower = 0, upper_weight = 0.0f;
  if (!is_row && lower >= in - 1) lower = in - 1, upper_weight = 0.0f;
  const int last = in - 1;
  const int upper = lower + 1 < last ? lower + 1 : last;
  taps.first = lower < 0 ? 0 : lower < last ? lower : last;
  taps.count = upper > taps.first ? 2 : 1;
  taps.weights[0] = static_cast<int32_t>(rintf((1.0f - upper_weight) * kOpenCvOne));
  taps.weights[1] = static_cast<int32_t>(rintf(upper_weight * kOpenCvOne));
}

// Returns a weighted sum of Pillow as 8 bits. The weights are not negative, so it is at most 255.
RETINASDK_HOST_DEVICE_RESIZE int pillow_rounded(int32_t sum) {
  const int value = (sum + (1 << (kPillowBits - 1))) >> kPillowBits;
  return value < 255 ? value : 255;
}

// Returns what OpenCV keeps of a weighted sum along a row: 0 to 32640, which fits in 16 bits.
RETINASDK_HOST_DEVICE_RESIZE int opencv_kept(int32_t sum) { return sum >> 4; }

// Returns the pixel that OpenCV computes from what it kept of two rows.
RETINASDK_HOST_DEVICE_RESIZE int opencv_rounded(int upper, int lower, const int32_t* weights) {
  return (((weights[0] * upper) >> 16) + ((weights[1] * lower) >> 16) + 2) >> 2;
}

// (value - mean) / std for values of 0..255, as one multiplication and one addition.
RETINASDK_HOST_DEVICE_RESIZE float normalize_gain(float std) { return 1.0f / std; }
RETINASDK_HOST_DEVICE_RESIZE float normalize_bias(float mean, float std) { return -mean / std; }
RETINASDK_HOST_DEVICE_RESIZE float normalize(float value, float gain, float bias) { return value * gain + bias; }

}  // namespace
}  // namespace retinasdk
