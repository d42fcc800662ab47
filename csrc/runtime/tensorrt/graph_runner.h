// Records launches that repeat from frame to frame as CUDA graphs. The counterpart of retinasdk/cuda/graph.py.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <set>
#include <string>

#include "runtime/tensorrt/device.h"

namespace retinasdk::runtime::trt {

// The shape of the network's input: images, 3, height, width.
using InputShape = std::array<int, 4>;

// The shapes that cannot be recorded. All lanes of an engine share the object.
class RefusedShapes {
 public:
  bool has(const InputShape& shape) const;
  void add(const InputShape& shape);

 private:
  mutable std::mutex mutex_;
  std::set<InputShape> shapes_;
};

// Runs launches: directly the first time, recorded the second time, and as a CUDA graph from then on.
//
// The first run for a key is not recorded, because TensorRT finishes its preparations for a shape in it. Graphs are
// valid as long as TensorRT's context does not change, so begin() deletes those of the shape before.
//
// Of a shape, the kMaxGraphs keys that ran last are remembered. A key that comes back later is a new one. So the number
// of graphs is bounded, and images whose sizes or addresses keep changing are rarely recorded.
class GraphRunner {
 public:
  using Launch = std::function<void()>;
  static constexpr size_t kMaxGraphs = 16;  // A decoder hands out a few surfaces in turn, each with a graph of its own.

  explicit GraphRunner(RefusedShapes* refused) : refused_(refused) {}
  ~GraphRunner() { forget(); }
  GraphRunner(const GraphRunner&) = delete;
  GraphRunner& operator=(const GraphRunner&) = delete;

  // Deletes all graphs and starts with another shape of the input. No launch of a graph may be in progress.
  void begin(const InputShape& shape);

  // Calls `launch`, or replays what it launched for the same key.
  //
  // key: identifies the work among that of the shape. For the same key, `launch` must launch exactly the same.
  // directly: launches the same work where it is not recorded, which may run a part of it as a graph of its own.
  void run(const std::string& key, const Stream& stream, const Launch& launch, const Launch& directly);

  // Deletes all graphs. No launch of one may be in progress.
  void forget() noexcept;

 private:
  struct Work {
    std::string key;
    int runs = 0;  // Counted without those that threw.
    cuda::Graph graph = nullptr;
  };

  bool is_worth_recording(int runs) const;
  cuda::Graph recorded(const Stream& stream, const Launch& launch);

  RefusedShapes* refused_;
  InputShape shape_{};
  std::list<Work> known_;  // The least recently used key first.
  size_t recordings_ = 0;  // Of the shape.
};

}  // namespace retinasdk::runtime::trt
