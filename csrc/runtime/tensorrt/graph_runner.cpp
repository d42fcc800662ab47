#include "runtime/tensorrt/graph_runner.h"

#include <algorithm>

#include "runtime/errors.h"

namespace retinasdk::runtime::trt {
namespace {

// The run in which a key is recorded. Recording goes through all launches once more and builds a graph of them, so it
// pays over many frames only. Once as many graphs were recorded as are kept, a key has to come often for another one.
constexpr int kRecordedInRun = 2;
constexpr int kLaterRecordedInRun = 32;

void destroy(cuda::Graph graph) noexcept {
  if (graph == nullptr) return;
  try {
    cuda::destroy_graph(graph);
  } catch (const cuda::Error&) {
    // The error of earlier work. The graph is gone nevertheless, and the next wait for the stream reports the error.
  }
}

}  // namespace

bool RefusedShapes::has(const InputShape& shape) const {
  const std::lock_guard lock(mutex_);
  return shapes_.count(shape) > 0;
}

void RefusedShapes::add(const InputShape& shape) {
  const std::lock_guard lock(mutex_);
  shapes_.insert(shape);
}

void GraphRunner::begin(const InputShape& shape) {
  forget();
  shape_ = shape;
  recordings_ = 0;
}

void GraphRunner::run(const std::string& key, const Stream& stream, const Launch& launch, const Launch& directly) {
  const auto find = [&] {
    return std::find_if(known_.begin(), known_.end(), [&key](const Work& each) { return each.key == key; });
  };
  auto work = find();
  const int runs = (work == known_.end() ? 0 : work->runs) + 1;
  cuda::Graph graph = work == known_.end() ? nullptr : work->graph;
  if (graph == nullptr && is_worth_recording(runs)) graph = work->graph = recorded(stream, launch);
  if (graph != nullptr) {
    checked("launching a frame", [&] { cuda::launch_graph(graph, stream.handle()); });
  } else {
    directly();
    work = find();  // `directly` may have run other work, which pushed this one out.
  }
  if (work == known_.end()) work = known_.insert(known_.end(), Work{key});
  work->runs = runs;
  known_.splice(known_.end(), known_, work);
  if (known_.size() > kMaxGraphs) {
    destroy(known_.front().graph);
    known_.pop_front();
  }
}

bool GraphRunner::is_worth_recording(int runs) const {
  return runs >= (recordings_ < kMaxGraphs ? kRecordedInRun : kLaterRecordedInRun) && !refused_->has(shape_);
}

cuda::Graph GraphRunner::recorded(const Stream& stream, const Launch& launch) {
  try {
    cuda::begin_capture(stream.handle());
    try {
      launch();
    } catch (...) {
      // After a failed recording there is no graph, but the stream has left the recording mode.
      try {
        destroy(cuda::end_capture(stream.handle()));
      } catch (const cuda::Error&) {
      }
      throw;
    }
    const cuda::Graph graph = cuda::end_capture(stream.handle());
    ++recordings_;
    return graph;
  } catch (const cuda::Error&) {
    refused_->add(shape_);
  } catch (const DeviceError&) {
    refused_->add(shape_);
  }
  return nullptr;
}

void GraphRunner::forget() noexcept {
  for (const Work& work : known_) destroy(work.graph);
  known_.clear();
}

}  // namespace retinasdk::runtime::trt
