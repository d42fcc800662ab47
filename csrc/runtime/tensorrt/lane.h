// A lane: one execution context with its stream, memory and CUDA graphs. It processes whole frames on the GPU. The
// counterpart of retinasdk/tensorrt/lane.py.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "runtime/backend.h"
#include "runtime/tensorrt/engine.h"
#include "runtime/tensorrt/frame_plan.h"
#include "runtime/tensorrt/graph_runner.h"
#include "runtime/tensorrt/lane_images.h"

namespace retinasdk::runtime::trt {

// Processes one call at a time. The GPU must be current in the calling thread.
//
// If an image's size and place in memory are those of a recent call, the whole frame is one CUDA graph: upload,
// preprocessing, network, decoding, suppression and download. Otherwise the images are uploaded and preprocessed by
// launches of their own, and a graph does the rest, which only depends on the shape of the network's input.
class Lane {
 public:
  // Makes the stream and the execution context. Memory is allocated by the first call.
  //
  // refused: the shapes that cannot be recorded as a graph, which all lanes of an engine share.
  Lane(const Engine& engine, const Suppression& suppression, RefusedShapes* refused);
  // Waits for launched work, and releases everything.
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Whether the context may use the engine's profile. Up to TensorRT 8.6, only one context may at a time.
  bool is_usable() const { return context_->getOptimizationProfile() >= 0; }

  // The shape of the network's input that the lane is set up for. Zeros before the first call.
  const InputShape& shape() const { return shape_; }

  // Detects objects in images. See Backend::detect.
  std::vector<Kept> detect(const std::vector<ImageView>& images, const std::vector<Transform>& transforms,
                           const DetectOptions& options);

 private:
  void set_shape(const InputShape& shape);
  void set_parameters(const std::vector<Transform>& transforms, const DetectOptions& options);
  void launch_network_to_results();
  std::vector<Kept> read_results() const;

  const Engine& engine_;
  Suppression suppression_;
  InputShape shape_{};
  std::optional<FramePlan> plan_;
  // Released in the opposite order: graphs, context, memory, stream.
  Stream stream_;
  DeviceBuffer frame_{"the network's tensors, candidates and scratch"};
  SharedBuffer parameters_{"thresholds and image sizes", false};
  SharedBuffer results_;
  LaneImages images_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  GraphRunner graphs_;
};

}  // namespace retinasdk::runtime::trt
