// NMS of rotated boxes. nms_kernel.cuh has the algorithm.
#include "cuda/nms_kernel.cuh"
#include "math/rotated_math.h"

namespace retinasdk::cuda {
namespace {

struct RotatedRule {
  using Box = RotatedBox;
  static constexpr int kValues = kRotatedValues;
  float iou_limit;
  bool shares_angle;

  __device__ bool is_usable(const float* boxes, uint64_t i) const { return is_finite(rotated_box_at(boxes, i)); }
  __device__ Box load(const float* boxes, uint64_t i) const { return rotated_box_at(boxes, i); }
  __device__ bool suppresses(const Box& kept, const Box& other) const {
    return rotated_iou(kept, other, shares_angle) > iou_limit;
  }
};

}  // namespace
}  // namespace retinasdk::cuda

#ifndef __CUDACC_RTC__  // Device-only compilers stop here.
namespace retinasdk::cuda {

void rotated_nms(int batch, const DeviceCandidates& candidates, const DeviceNmsOptions& options, bool shares_angle,
                 const DeviceDetections& detections, Scratch scratch, Stream stream) {
  const RotatedRule rule{strict_limit(options.iou_threshold, options.or_equal), shares_angle};
  launch_nms(batch, candidates, options, rule, detections, scratch, stream);
}

}  // namespace retinasdk::cuda
#endif
