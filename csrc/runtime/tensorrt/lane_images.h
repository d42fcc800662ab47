// The first part of a frame on the GPU: images are copied there, resized, and written into the network's input.
#pragma once

#include <string>
#include <vector>

#include "retinasdk/ops_cuda.h"
#include "runtime/backend.h"
#include "runtime/tensorrt/device.h"

namespace retinasdk::runtime::trt {

// The images of one call, ready to be launched.
struct PreparedImages {
  // Identifies what launch() launches: sizes, formats and addresses, but no pixels.
  std::string key;
  size_t upload_bytes = 0;
  struct One {
    cuda::DeviceImage image;
    cuda::DevicePreprocessOptions options;
  };
  std::vector<One> images;
  std::byte* output = nullptr;
  size_t bytes_of_output = 0;  // Of one image.
  cuda::Scratch scratch{};
};

// Holds the memory for the images of a lane: a pinned block, its twin on the GPU, and scratch for the resize.
class LaneImages {
 public:
  // integrated: whether the GPU shares the memory of the CPU. Then images, which are read once, are not copied.
  LaneImages(const ModelSpec& spec, bool integrated) : spec_(spec), block_("images", integrated) {}

  // Copies images into the pinned block. No launched work may still use the memory of an earlier call.
  //
  // output: the network's input, with bytes_of_output bytes for each image.
  PreparedImages prepare(const std::vector<ImageView>& images, const std::vector<Transform>& transforms,
                         cuda::Scalar type, std::byte* output, size_t bytes_of_output);

  // Launches one copy for all images, and the resize of each.
  void launch(const PreparedImages& prepared, const Stream& stream) const;

 private:
  const ModelSpec& spec_;
  SharedBuffer block_;
  DeviceBuffer scratch_{"resizing"};
  // How often a block has grown. Graphs of before would use memory that was freed, also where only one address of a
  // block changed, so this is a part of their keys.
  uint64_t moves_ = 0;
};

}  // namespace retinasdk::runtime::trt
