#include "runtime/tensorrt/lane_pool.h"

#include <algorithm>

#include "runtime/errors.h"

namespace retinasdk::runtime::trt {

std::unique_ptr<Lane> LanePool::borrow(const InputShape& shape) {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return is_closed_ || !idle_.empty() || count_ < limit_; });
      if (is_closed_) throw ClosedError("The Detector is closed. Create a new one.");
      if (!idle_.empty()) {
        // The most recently used lane of that shape, else the most recently used one.
        auto found =
            std::find_if(idle_.rbegin(), idle_.rend(), [&](const auto& lane) { return lane->shape() == shape; });
        if (found == idle_.rend()) found = idle_.rbegin();
        std::unique_ptr<Lane> lane = std::move(*found);
        idle_.erase(std::next(found).base());
        return lane;
      }
      ++count_;
    }
    if (std::unique_ptr<Lane> made = new_lane()) return made;
  }
}

// Creates a lane, which count_ already includes. Null: no further lane can be created from now on. Whether TensorRT
// fails to create a further context or creates one that cannot be used depends on its version. One lane is enough in
// both cases.
std::unique_ptr<Lane> LanePool::new_lane() {
  std::unique_ptr<Lane> made;
  try {
    const std::lock_guard lock(making_);
    made = make_();
  } catch (const DeviceError&) {
    if (is_only_one_forgotten()) throw;
    return nullptr;
  } catch (...) {
    forget_one();
    throw;
  }
  if (made == nullptr && is_only_one_forgotten()) {
    throw DeviceError("TensorRT creates no execution context that can use the engine's profile.");
  }
  return made;
}

// Gives up the lane that could not be created, and further ones. Returns whether there is no other one.
bool LanePool::is_only_one_forgotten() {
  bool is_only_one = false;
  {
    const std::lock_guard lock(mutex_);
    is_only_one = count_ == 1;
    limit_ = std::max(1, count_ - 1);
  }
  forget_one();
  return is_only_one;
}

void LanePool::forget_one() {
  const std::lock_guard lock(mutex_);
  --count_;
  changed_.notify_all();
}

void LanePool::take_back(std::unique_ptr<Lane> lane, bool is_in_order) {
  if (!is_in_order) {
    lane.reset();
    forget_one();
    return;
  }
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(lane));
  changed_.notify_all();
}

void LanePool::close() {
  std::vector<std::unique_ptr<Lane>> lanes;
  {
    std::unique_lock lock(mutex_);
    is_closed_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return static_cast<int>(idle_.size()) == count_; });
    lanes.swap(idle_);
    count_ = 0;
  }
}

}  // namespace retinasdk::runtime::trt
