// Bounding-box delta encoding: how the box head's four outputs for an anchor become a box.
//
// This header holds plain data only. csrc/math/box_math.h does the arithmetic, for the CPU and for the GPU.
#pragma once

namespace retinasdk {

// The formula that turns an anchor and its four deltas into a box. Both formulas work in the anchor's own size: w and h
// below are the anchor's width and height. See BoxCoder for the weights and means that are applied to the deltas first.
enum class BoxCoding {
  // Center-size encoding of Faster R-CNN (Ren et al., 2015, equation 2); torchvision, detectron2 and MMDetection use
  // it. The deltas are (dx, dy, dw, dh): the center moves by (dx * w, dy * h), and the size becomes
  // (w * exp(dw), h * exp(dh)).
  kCenter,
  // Corner encoding of keras-retinanet. The deltas are (dx1, dy1, dx2, dy2): the corners move by
  // (dx1 * w, dy1 * h) and (dx2 * w, dy2 * h).
  kCorner,
};

// The largest finite float. As a bound in BoxCoder it means "no bound": exp(kUnbounded) is infinity, and
// exp(-kUnbounded) is 0.
constexpr float kUnbounded = 3.4028234e38f;

// Parameters of the delta encoding. The default is center-size encoding without weights, means or bounds.
struct BoxCoder {
  float weights[4] = {1.0f, 1.0f, 1.0f, 1.0f};  // Delta i becomes delta / weights[i] + means[i]. Must be above 0.
  float clamp_max = kUnbounded;                 // Upper bound of dw and dh before exp(). Ignored by kCorner.
  float clamp_min = -kUnbounded;                // Lower bound of dw and dh before exp(). Ignored by kCorner.
  float means[4] = {0.0f, 0.0f, 0.0f, 0.0f};    // See weights. Must be finite.
  BoxCoding coding = BoxCoding::kCenter;        // The formula.
  bool inclusive_pixels = false;                // Whether x2 and y2 name the last pixel inside the box ("+ 1" sizes).
};

}  // namespace retinasdk
