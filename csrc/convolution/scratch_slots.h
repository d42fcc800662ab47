// Scratch memory for pieces of work that run at the same time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

#include "convolution/convolution.h"

namespace retinasdk {

// Divides a buffer into slots, each for one piece of work at a time. A piece takes the first free slot, so that few
// threads use few slots, which stay in the cache. The number of threads need not be known: a piece waits if no slot is
// free.
class ScratchSlots {
 public:
  static constexpr int kMost = 64;

  // The number of slots for some pieces of work.
  static std::size_t count(std::size_t pieces) { return pieces < kMost ? pieces : kMost; }
  // The floats of a buffer with slots of `floats` for `pieces` pieces of work.
  static std::size_t floats(std::size_t pieces, std::size_t floats) {
    return floats == 0 ? 0 : count(pieces) * padded(floats) + kAlignment / sizeof(float);
  }

  ScratchSlots(float* scratch, std::size_t pieces, std::size_t floats)
      : first_(floats == 0 ? nullptr : aligned(scratch)),
        step_(padded(floats)),
        free_(count(pieces) == kMost ? ~std::uint64_t{0} : (std::uint64_t{1} << count(pieces)) - 1) {}

  // A slot that is taken until the end of the scope.
  class Slot {
   public:
    explicit Slot(ScratchSlots& slots) : slots_(slots), bit_(slots.take()) {}
    ~Slot() { slots_.free_.fetch_or(std::uint64_t{1} << bit_, std::memory_order_release); }
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;

    // Aligned to kAlignment.
    float* data() const { return slots_.first_ + static_cast<std::size_t>(bit_) * slots_.step_; }

   private:
    ScratchSlots& slots_;
    int bit_;
  };

 private:
  static std::size_t padded(std::size_t floats) {
    constexpr std::size_t kLine = kAlignment / sizeof(float);
    return (floats + kLine - 1) / kLine * kLine;
  }

  int take() {
    std::uint64_t free = free_.load(std::memory_order_relaxed);
    for (;;) {
      if (free == 0) {
        std::this_thread::yield();
        free = free_.load(std::memory_order_relaxed);
        continue;
      }
      const std::uint64_t lowest = free & (~free + 1);
      if (free_.compare_exchange_weak(free, free & ~lowest, std::memory_order_acquire, std::memory_order_relaxed)) {
        int bit = 0;
        while ((lowest >> bit & 1) == 0) ++bit;
        return bit;
      }
    }
  }

  float* first_;
  std::size_t step_;
  std::atomic<std::uint64_t> free_;  // A bit for each slot.
};

}  // namespace retinasdk
