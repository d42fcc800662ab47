// NMS of upright boxes. nms_kernel.cuh has the algorithm.
#include "cuda/nms_kernel.cuh"

namespace retinasdk::cuda {
namespace {

struct UprightRule {
  using Box = retinasdk::Box;
  static constexpr int kValues = 4;
  float iou_limit;
  bool inclusive_pixels;

  __device__ bool is_usable(const float* boxes, uint64_t i) const { return is_finite(box_at(boxes, i)); }
  __device__ Box load(const float* boxes, uint64_t i) const {
    return continuous_box(box_at(boxes, i), inclusive_pixels);
  }
  __device__ bool suppresses(const Box& kept, const Box& other) const {
    return retinasdk::suppresses(kept, other, iou_limit);
  }
};

}  // namespace
}  // namespace retinasdk::cuda

#ifndef __CUDACC_RTC__  // Device-only compilers stop here.
namespace retinasdk::cuda {

size_t nms_scratch_bytes(int batch, int capacity, const DeviceNmsOptions& options) {
  require_suppression(batch, capacity, options, 1);
  ScratchLayout layout;
  lay_out_nms(batch, capacity, layout);
  return layout.size_bytes();
}

void nms(int batch, const DeviceCandidates& candidates, const DeviceNmsOptions& options,
         const DeviceDetections& detections, Scratch scratch, Stream stream) {
  const UprightRule rule{strict_limit(options.iou_threshold, options.or_equal), options.inclusive_pixels};
  launch_nms(batch, candidates, options, rule, detections, scratch, stream);
}

}  // namespace retinasdk::cuda
#endif
