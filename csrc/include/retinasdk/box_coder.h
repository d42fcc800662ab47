// What the four numbers that a network gives for an anchor mean. Plain data; box_math.h computes with it.
#pragma once

namespace retinasdk {

// kCenter, Faster R-CNN's (Ren et al. 2015, equation 2): deltas are (dx, dy, dw, dh); the anchor's centre moves by dx
// and dy of its sides, and its sides grow by exp(dw) and exp(dh).
// kCorner, keras-retinanet's: deltas are (dx1, dy1, dx2, dy2); each corner moves by so many of the anchor's sides.
enum class BoxCoding { kCenter, kCorner };

constexpr float kUnbounded = 3.4028234e38f;  // the largest float: its exp() is infinity, that of -kUnbounded is 0

struct BoxCoder {
  float weights[4] = {1.0f, 1.0f, 1.0f, 1.0f};  // each delta is divided by its weight, then its mean is added
  float clamp_max = kUnbounded;                 // bounds of dw and dh before exp(); kCorner has none
  float clamp_min = -kUnbounded;
  float means[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  BoxCoding coding = BoxCoding::kCenter;
  bool inclusive_pixels = false;  // Note [Box convention] in box_math.h
};

}  // namespace retinasdk
