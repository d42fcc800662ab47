// The arithmetic and the comparisons of rotated boxes, written once for the CPU and the GPU.
//
// The rules and notes of box_math.h also apply here. rotated_box_coder.h explains the values of boxes and anchors.
#pragma once

#include "math/box_math.h"
#include "retinasdk/rotated_box_coder.h"

namespace retinasdk {
namespace {

constexpr double kPi = 3.14159265358979323846;

// deltas_of(), for the device, too.
RETINASDK_HOST_DEVICE int delta_count(const RotatedCoder& coder) {
  return coder.coding == AngleCoding::kSinCos ? 6 : 5;
}
static_assert(deltas_of(AngleCoding::kSinCos) == 6 && deltas_of(AngleCoding::kDelta) == 5);

struct RotatedBox {
  float x, y, width, height, sin, cos;
};

// Returns row i of boxes (n, 6).
RETINASDK_HOST_DEVICE RotatedBox rotated_box_at(const float* boxes, uint64_t i) {
  const float* box = boxes + kRotatedValues * i;
  return {box[0], box[1], box[2], box[3], box[4], box[5]};
}

// Writes the six values of a box.
RETINASDK_HOST_DEVICE void store(const RotatedBox& box, float* out) {
  out[0] = box.x;
  out[1] = box.y;
  out[2] = box.width;
  out[3] = box.height;
  out[4] = box.sin;
  out[5] = box.cos;
}

// Whether all values are finite.
RETINASDK_HOST_DEVICE bool is_finite(const RotatedBox& box) {
  return is_finite(Box{box.x, box.y, box.width, box.height}) && is_finite(Box{box.sin, box.cos, 0.0f, 0.0f});
}

// The sine and the cosine of an angle.
struct Direction {
  double sin, cos;
};

// Note [Sine]
// Computes the sine and the cosine with an error below 1e-15, for angles of -1e6 to 1e6 radians. Other angles give NaN:
// float32 angles of that size are multiples of several degrees, so they have no meaning.
// The method: angle = n * pi / 2 + r with |r| <= pi / 4, then Taylor's series of both functions at r. As in Note
// [Exponential], only IEEE arithmetic is used, so the CPU and the GPU get the same bits.
RETINASDK_HOST_DEVICE Direction direction_of(double angle) {
  if (!(fabs(angle) <= 1e6)) {
    const double undefined = 0.0 / (angle - angle);  // NaN.
    return {undefined, undefined};
  }
  const double n = floor(angle / (kPi / 2) + 0.5);
  const double r = (angle - n * 1.5707963267948966) - n * 6.123233995736766e-17;  // pi / 2 in two parts.
  const double square = r * r;
  double sine = 1.0;
  double cosine = 1.0;
  for (int k = 16; k > 0; k -= 2) {
    sine = 1.0 - sine * square / (k * (k + 1));
    cosine = 1.0 - cosine * square / (k * (k - 1));
  }
  sine *= r;
  const int quarter = static_cast<int>(n - 4.0 * floor(n / 4.0));
  if (quarter == 0) return {sine, cosine};
  if (quarter == 1) return {cosine, -sine};
  if (quarter == 2) return {-sine, -cosine};
  return {-cosine, sine};
}

// Returns the angle, moved into the half turn that begins at `first` by whole half turns.
RETINASDK_HOST_DEVICE double within_half_turn(double angle, double first) {
  return angle - kPi * floor((angle - first) / kPi);
}

// Returns the rotated anchor of a cell: the base anchor (5,), moved by whole strides. The direction is not set.
RETINASDK_HOST_DEVICE RotatedBox rotated_anchor(const float* base, float stride_y, float stride_x, int row,
                                                int column) {
  return {base[0] + static_cast<float>(column) * stride_x,
          base[1] + static_cast<float>(row) * stride_y,
          base[2],
          base[3],
          0.0f,
          0.0f};
}

// Note [Clipping rotated boxes]
// The frameworks do not cut rotated boxes at the edge of the image. MMRotate (kDelta) clips the center. ODTK (kSinCos)
// clips the box before it is turned, and each edge on one side only: left and top to 0, right and bottom to the limit.
// So the width or the height of a box that lies outside of the image is negative. NMS depends on the sign, see
// rotated_iou().

// Decodes deltas of AngleCoding::kDelta. A negative clip size leaves its axis unclipped.
RETINASDK_HOST_DEVICE RotatedBox apply_angle_delta(const RotatedBox& anchor, float anchor_angle,
                                                   const float (&delta)[kMaxDeltas], const RotatedCoder& coder,
                                                   const BoxLimits& limits) {
  float move[5];
  for (int i = 0; i < 5; ++i) move[i] = delta[i] / coder.weights[i] + coder.means[i];
  const BoxCoder bounds{{}, coder.clamp_max, coder.clamp_min, {}, BoxCoding::kCenter, false};
  float width = anchor.width * exponential(clamp_log_size(move[2], bounds));
  float height = anchor.height * exponential(clamp_log_size(move[3], bounds));
  float right = move[0] * anchor.width;
  float down = move[1] * anchor.height;
  if (coder.turns_offsets) {
    const Direction axis = direction_of(static_cast<double>(anchor_angle));
    const double turned = right * axis.cos - down * axis.sin;
    down = static_cast<float>(right * axis.sin + down * axis.cos);
    right = static_cast<float>(turned);
  }
  float x = right + anchor.x;
  float y = down + anchor.y;
  if (limits.width >= 0.0f) x = clip_coordinate(x, limits.width);
  if (limits.height >= 0.0f) y = clip_coordinate(y, limits.height);
  double angle = static_cast<double>(anchor_angle + move[4] * coder.angle_unit);
  if (coder.limits_angle) angle = within_half_turn(angle, static_cast<double>(coder.first_angle));
  if (coder.swaps_edges && !(width > height)) {
    const float shorter = width;
    width = height;
    height = shorter;
    angle += kPi / 2;
    if (coder.limits_angle) angle = within_half_turn(angle, static_cast<double>(coder.first_angle));
  }
  const Direction direction = direction_of(angle);
  return {x, y, width, height, static_cast<float>(direction.sin), static_cast<float>(direction.cos)};
}

// Decodes deltas of AngleCoding::kSinCos. A negative clip size leaves its axis unclipped.
RETINASDK_HOST_DEVICE RotatedBox apply_sin_cos(const RotatedBox& anchor, const float (&delta)[kMaxDeltas],
                                               const RotatedCoder& coder, const BoxLimits& limits) {
  float move[4];
  for (int i = 0; i < 4; ++i) move[i] = delta[i] / coder.weights[i] + coder.means[i];
  const BoxCoder bounds{{}, coder.clamp_max, coder.clamp_min, {}, BoxCoding::kCenter, false};
  const float center_x = move[0] * anchor.width + anchor.x;
  const float center_y = move[1] * anchor.height + anchor.y;
  const float half_width = 0.5f * (exponential(clamp_log_size(move[2], bounds)) * anchor.width);
  const float half_height = 0.5f * (exponential(clamp_log_size(move[3], bounds)) * anchor.height);
  const float last = coder.inclusive_pixels ? 1.0f : 0.0f;
  Box box{center_x - half_width, center_y - half_height, center_x + half_width - last, center_y + half_height - last};
  if (limits.width >= 0.0f) {
    if (box.x1 < 0.0f) box.x1 = 0.0f;
    if (box.x2 > limits.width) box.x2 = limits.width;
  }
  if (limits.height >= 0.0f) {
    if (box.y1 < 0.0f) box.y1 = 0.0f;
    if (box.y2 > limits.height) box.y2 = limits.height;
  }
  return {0.5f * (box.x1 + box.x2), 0.5f * (box.y1 + box.y2), box.x2 - box.x1, box.y2 - box.y1, delta[4], delta[5]};
}

// -- overlap ---------------------------------------------------------------------------------------------------------

// Areas of two boxes and of their intersection. All are in the units of the first box, whose direction may have another
// length than 1.
struct SharedArea {
  double shared, first, second;
};

// Returns the integral of min(max(y, -limit), limit) along the edge from (x1, y1) to (x2, y2), over the part of the
// edge whose x lies between -x_limit and x_limit. It is negative for edges that go to the left.
RETINASDK_HOST_DEVICE double area_below_edge(double x1, double y1, double x2, double y2, double x_limit, double limit) {
  const double left = x1 < x2 ? x1 : x2;
  const double right = x1 < x2 ? x2 : x1;
  const double from = left > -x_limit ? left : -x_limit;
  const double to = right < x_limit ? right : x_limit;
  if (!(to > from)) return 0.0;
  const double left_y = x1 < x2 ? y1 : y2;
  const double right_y = x1 < x2 ? y2 : y1;
  const double from_y = left_y + (right_y - left_y) * ((from - left) / (right - left));
  const double to_y = left_y + (right_y - left_y) * ((to - left) / (right - left));
  const double low = from_y < to_y ? from_y : to_y;
  const double high = from_y < to_y ? to_y : from_y;
  double mean;
  if (low >= limit) {
    mean = limit;
  } else if (high <= -limit) {
    mean = -limit;
  } else {
    const double low_inside = low > -limit ? low : -limit;
    const double high_inside = high < limit ? high : limit;
    mean = 0.5 * (low_inside + high_inside);
    if (low < -limit || high > limit) {
      const double above = high - high_inside;
      const double below = low_inside - low;
      mean = ((high_inside - low_inside) * mean + (above - below) * limit) / (high - low);
    }
  }
  return (x1 < x2 ? to - from : from - to) * mean;
}

// Note [Intersection of rotated boxes]
// The second box is expressed in the axes of the first box, which then is the rectangle |x| <= x_limit, |y| <= y_limit.
// A convex shape covers one interval at each x. The interval and the rectangle share the difference of both of its
// ends, limited to -y_limit to y_limit. So the integrals of the limited edges over the x of the rectangle add up to the
// area of the intersection. No polygon is built, so there is no array, and no special case for edges that touch. The
// test for separating axes comes first. It is fast, and boxes that only touch share an area of exactly 0.
RETINASDK_HOST_DEVICE SharedArea shared_area(const RotatedBox& first, const RotatedBox& second) {
  const double sin1 = first.sin, cos1 = first.cos, sin2 = second.sin, cos2 = second.cos;
  const double length = sin1 * sin1 + cos1 * cos1;
  const double right = static_cast<double>(second.x) - first.x;
  const double down = static_cast<double>(second.y) - first.y;
  const double x = (right * cos1 + down * sin1) / length;
  const double y = (down * cos1 - right * sin1) / length;
  const double cos = (cos2 * cos1 + sin2 * sin1) / length;
  const double sin = (sin2 * cos1 - cos2 * sin1) / length;
  const double scale = cos * cos + sin * sin;
  const double x_limit = 0.5 * fabs(static_cast<double>(first.width));
  const double y_limit = 0.5 * fabs(static_cast<double>(first.height));
  const double half_width = 0.5 * fabs(static_cast<double>(second.width));
  const double half_height = 0.5 * fabs(static_cast<double>(second.height));
  SharedArea result{0.0, 4.0 * x_limit * y_limit, 4.0 * half_width * half_height * scale};

  const double wide_x = half_width * cos, wide_y = half_width * sin;  // From the center to the middle of an edge.
  const double tall_x = -half_height * sin, tall_y = half_height * cos;
  const bool is_separate = fabs(x) >= x_limit + fabs(wide_x) + fabs(tall_x) ||
                           fabs(y) >= y_limit + fabs(wide_y) + fabs(tall_y) ||
                           fabs(x * cos + y * sin) >= half_width * scale + fabs(x_limit * cos) + fabs(y_limit * sin) ||
                           fabs(y * cos - x * sin) >= half_height * scale + fabs(x_limit * sin) + fabs(y_limit * cos);
  if (is_separate) return result;

  const double x1 = x - wide_x - tall_x, y1 = y - wide_y - tall_y;
  const double x2 = x + wide_x - tall_x, y2 = y + wide_y - tall_y;
  const double x3 = x + wide_x + tall_x, y3 = y + wide_y + tall_y;
  const double x4 = x - wide_x + tall_x, y4 = y - wide_y + tall_y;
  double sum = area_below_edge(x1, y1, x2, y2, x_limit, y_limit);
  sum += area_below_edge(x2, y2, x3, y3, x_limit, y_limit);
  sum += area_below_edge(x3, y3, x4, y4, x_limit, y_limit);
  sum += area_below_edge(x4, y4, x1, y1, x_limit, y_limit);
  result.shared = fabs(sum);
  return result;
}

// Returns the intersection over union (IoU) of two boxes: 0 if they do not overlap, NaN if both have no area.
//
// shares_angle: both boxes take the direction of the second one, as ODTK does. The first box is then the kept one of
// NMS. In ODTK, a kept box with one negative side overlaps nothing: the sign turns one pair of its edges inside out.
RETINASDK_HOST_DEVICE float rotated_iou(const RotatedBox& first, const RotatedBox& second, bool shares_angle) {
  if ((first.width < 0.0f) != (first.height < 0.0f)) return 0.0f;
  RotatedBox frame = first;
  if (shares_angle) {
    frame.sin = second.sin;
    frame.cos = second.cos;
  }
  const SharedArea area = shared_area(frame, second);
  return static_cast<float>(area.shared / (area.first + area.second - area.shared));
}

// -- candidates ------------------------------------------------------------------------------------------------------

// Whether more than half of the area of a box lies inside one of the regions.
RETINASDK_HOST_DEVICE bool is_ignored(const RotatedBox& box, const IgnoredRegions& regions) {
  for (int i = 0; i < regions.count; ++i) {
    const Box region = box_at(regions.boxes, static_cast<uint64_t>(i));
    if (is_empty(region)) return false;
    const RotatedBox upright{0.5f * (region.x1 + region.x2),
                             0.5f * (region.y1 + region.y2),
                             region.x2 - region.x1,
                             region.y2 - region.y1,
                             0.0f,
                             1.0f};
    const SharedArea area = shared_area(box, upright);
    if (area.shared > 0.5 * area.first) return true;
  }
  return false;
}

// Decodes and clips the rotated box of an anchor. Returns whether it meets the limits.
RETINASDK_HOST_DEVICE bool decode_rotated_box(const RotatedBox& anchor, float anchor_angle,
                                              const float (&delta)[kMaxDeltas], const RotatedCoder& coder,
                                              const BoxLimits& limits, RotatedBox& box) {
  box = coder.coding == AngleCoding::kSinCos ? apply_sin_cos(anchor, delta, coder, limits)
                                             : apply_angle_delta(anchor, anchor_angle, delta, coder, limits);
  if (!is_finite(box)) return false;
  return !(limits.drop_empty && !(box.width > 0.0f && box.height > 0.0f)) && !is_ignored(box, limits.ignored);
}

}  // namespace
}  // namespace retinasdk
