// How an image is placed in the network's input. The counterpart of Transform in retinasdk/pipeline/preprocess.py.
#pragma once

#include <optional>

#include "runtime/spec.h"

namespace retinasdk::runtime {

struct Transform {
  Size original, resized, padded;
  std::optional<double> scale;  // From original to network pixels on both axes. None: the ratio of each axis.
  double source_step = 0.0;     // Distance between the source positions of neighboring pixels. 0: the ratio.

  // Computes the transform that the spec requires for an image.
  static Transform plan(Size original, const ModelSpec& spec);

  // Convert `count` boxes (count, 4) in place, between pixels of the network's input and of the original image.
  void to_original(float* boxes, size_t count) const;
  void to_network(float* boxes, size_t count) const;
};

}  // namespace retinasdk::runtime
