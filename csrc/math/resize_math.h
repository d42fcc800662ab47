// Which source pixels make an output pixel, and with what weights: written once for host and device.
//
// A resize is separable: each axis has, per output position, a run of source positions ("taps") and their weights.
//   bilinear:     two taps around (i + 0.5) * in / out - 0.5, as PyTorch's interpolate(align_corners=False)
//   antialiased:  a triangle that widens with the reduction, normalised to 1, as Pillow's BILINEAR
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define RETINASDK_HOST_DEVICE_RESIZE __host__ __device__ inline
#else
#define RETINASDK_HOST_DEVICE_RESIZE inline
#endif

namespace retinasdk {
namespace {

// Upper bound of the taps of one output position.
RETINASDK_HOST_DEVICE_RESIZE int max_taps(int in, int out, bool antialias) {
  if (!antialias || in <= out) return 2;
  return 2 * static_cast<int>(ceilf(static_cast<float>(in) / static_cast<float>(out))) + 1;
}

// Fills weights[0..count) for output position i and returns count; *first is the first source position.
RETINASDK_HOST_DEVICE_RESIZE int source_taps(int i, int in, int out, bool antialias, int* first, float* weights) {
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  if (!antialias || in <= out) {
    const float centre = scale * (static_cast<float>(i) + 0.5f) - 0.5f;
    const float position = centre < 0.0f ? 0.0f : centre;
    const int lower = static_cast<int>(position) < in - 1 ? static_cast<int>(position) : in - 1;
    const float upper_weight = lower < in - 1 ? position - static_cast<float>(lower) : 0.0f;
    *first = lower;
    weights[0] = 1.0f - upper_weight;
    if (lower == in - 1) return 1;
    weights[1] = upper_weight;
    return 2;
  }
  const float centre = scale * (static_cast<float>(i) + 0.5f);
  const int begin_unclipped = static_cast<int>(centre - scale + 0.5f);
  const int end_unclipped = static_cast<int>(centre + scale + 0.5f);
  const int begin = begin_unclipped > 0 ? begin_unclipped : 0;
  const int end = end_unclipped < in ? end_unclipped : in;
  float sum = 0.0f;
  for (int source = begin; source < end; ++source) {
    const float distance = fabsf((static_cast<float>(source) + 0.5f - centre) / scale);
    const float weight = distance < 1.0f ? 1.0f - distance : 0.0f;
    weights[source - begin] = weight;
    sum += weight;
  }
  for (int tap = 0; tap < end - begin; ++tap) weights[tap] = weights[tap] / sum;
  *first = begin;
  return end - begin;
}

// (value - mean) / std with value in 0..255, as one multiplication and one addition.
RETINASDK_HOST_DEVICE_RESIZE float normalise_gain(float std) { return 1.0f / std; }
RETINASDK_HOST_DEVICE_RESIZE float normalise_bias(float mean, float std) { return -mean / std; }
RETINASDK_HOST_DEVICE_RESIZE float normalise(float value, float gain, float bias) { return value * gain + bias; }

}  // namespace
}  // namespace retinasdk
