// The source pixels and weights of each output pixel of a resize, written once for the CPU and the GPU.
//
// A resize is separable. On each axis, an output position is the weighted sum of consecutive source positions, which
// are called taps. `step` is the distance between the source positions of two neighboring output positions.
//   bilinear:     two taps around (i + 0.5) * step - 0.5, as in PyTorch's interpolate(align_corners=False)
//   antialiased:  a triangle filter that widens with the reduction, with weights that sum to 1, as in Pillow's BILINEAR
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define RETINASDK_HOST_DEVICE_RESIZE __host__ __device__ inline
#else
#define RETINASDK_HOST_DEVICE_RESIZE inline
#endif

namespace retinasdk {
namespace {

// Returns the step of an axis: the given one, or in / out if that is 0.
RETINASDK_HOST_DEVICE_RESIZE float source_step(int in, int out, float given) {
  return given > 0.0f ? given : static_cast<float>(in) / static_cast<float>(out);
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

// Returns a pixel value of 0 to 255, rounded to a whole one. Halves are rounded up, as Pillow and OpenCV do.
RETINASDK_HOST_DEVICE_RESIZE float whole_level(float value) {
  return static_cast<float>(static_cast<int>(value + 0.5f));
}

// (value - mean) / std for values of 0..255, as one multiplication and one addition.
RETINASDK_HOST_DEVICE_RESIZE float normalize_gain(float std) { return 1.0f / std; }
RETINASDK_HOST_DEVICE_RESIZE float normalize_bias(float mean, float std) { return -mean / std; }
RETINASDK_HOST_DEVICE_RESIZE float normalize(float value, float gain, float bias) { return value * gain + bias; }

}  // namespace
}  // namespace retinasdk
