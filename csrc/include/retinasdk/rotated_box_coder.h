// Rotated boxes: their values, and how the box head's outputs for an anchor become a rotated box.
//
// This header holds plain data only. csrc/math/rotated_math.h does the arithmetic, for the CPU and for the GPU.
#pragma once

#include "retinasdk/box_coder.h"

namespace retinasdk {

// A rotated box has six values: (x, y, width, height, sin, cos), float32. (x, y) is its center in pixels. (cos, sin) is
// the direction of its width axis, with y down, so a growing angle turns the box clockwise on the screen. The direction
// of kSinCos is what the network predicts. Its length need not be 1.
constexpr int kRotatedValues = 6;
// A rotated anchor has five values: (x, y, width, height, angle), the angle in radians.
constexpr int kRotatedAnchorValues = 5;
constexpr int kMaxDeltas = 6;  // The highest number of deltas of an anchor.

// The formula that turns a rotated anchor and its deltas into a rotated box. See BoxCoding::kCenter for the first four
// deltas.
enum class AngleCoding {
  kDelta,   // (dx, dy, dw, dh, da): da is added to the angle of the anchor. MMRotate uses it.
  kSinCos,  // (dx, dy, dw, dh, sin, cos): the direction itself, whatever the angle of the anchor. ODTK uses it.
};

// Parameters of the encoding of rotated boxes.
struct RotatedCoder {
  AngleCoding coding = AngleCoding::kDelta;
  float weights[5] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f};  // As in BoxCoder, for dx, dy, dw, dh and da. Above 0.
  float means[5] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};    // As in BoxCoder. Must be finite.
  float clamp_max = kUnbounded;                       // As in BoxCoder.
  float clamp_min = -kUnbounded;                      // As in BoxCoder.
  float angle_unit = 1.0f;                            // Radians for a da of 1.
  // Whether the angle of the box is moved into the half turn that begins at first_angle, in radians. Only for kDelta.
  bool limits_angle = false;
  float first_angle = 0.0f;
  bool swaps_edges = false;       // Whether the longer side becomes the width. Only for kDelta.
  bool turns_offsets = false;     // Whether dx and dy follow the axes of the anchor. Only for kDelta.
  bool inclusive_pixels = false;  // Whether the last pixel inside the box names its far edges. Only for kSinCos.
};

// Returns the number of deltas of an anchor.
constexpr int deltas_of(AngleCoding coding) { return coding == AngleCoding::kSinCos ? 6 : 5; }

}  // namespace retinasdk
