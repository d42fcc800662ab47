// The pool that lends lanes to the threads that call a backend. The counterpart of retinasdk/tensorrt/lane_pool.py.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/tensorrt/lane.h"

namespace retinasdk::runtime::trt {

// Creates lanes on demand up to a limit, and lends each of them to one call at a time. The GPU must be current in the
// calling thread.
class LanePool {
 public:
  // Returns a new lane, or null if there cannot be a further one.
  using Make = std::function<std::unique_ptr<Lane>()>;

  LanePool(Make make, int limit) : make_(std::move(make)), limit_(limit) {}
  LanePool(const LanePool&) = delete;
  LanePool& operator=(const LanePool&) = delete;

  // Returns what `use` returns for a lane, preferably one that is set up for `shape`; waits for one if necessary. If
  // `use` throws, the lane is closed instead of reused, because its state is unknown.
  template <typename Use>
  auto with_lane(const InputShape& shape, const Use& use) {
    Loan loan(*this, borrow(shape));
    auto result = use(*loan.lane);
    loan.is_in_order = true;
    return result;
  }

  // Rejects further calls, waits until all lanes are returned, and closes them.
  void close();

 private:
  struct Loan {
    Loan(LanePool& lender, std::unique_ptr<Lane> lent) : pool(lender), lane(std::move(lent)) {}
    ~Loan() { pool.take_back(std::move(lane), is_in_order); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;

    LanePool& pool;
    std::unique_ptr<Lane> lane;
    bool is_in_order = false;
  };

  std::unique_ptr<Lane> borrow(const InputShape& shape);
  std::unique_ptr<Lane> new_lane();
  bool is_only_one_forgotten();
  void take_back(std::unique_ptr<Lane> lane, bool is_in_order);
  void forget_one();

  Make make_;
  std::mutex mutex_;
  std::mutex making_;
  std::condition_variable changed_;
  int limit_;
  int count_ = 0;  // Lanes that are lent, idle, or being created.
  std::vector<std::unique_ptr<Lane>> idle_;
  bool is_closed_ = false;
};

}  // namespace retinasdk::runtime::trt
