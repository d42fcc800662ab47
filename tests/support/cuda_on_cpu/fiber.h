// Fibers: contexts with a stack of their own. Switches are announced to the sanitizers.
#pragma once

#include <cstddef>

#if defined(CUDA_ON_CPU_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(CUDA_ON_CPU_TSAN)
// The functions are declared here, because this file is compiled without -fsanitize=thread. Otherwise the sanitizer
// would report the scheduler's own data as data races.
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace cuda_on_cpu {

// Tells the thread sanitizer that this fiber sees what was written before release() of the same tag.
inline void acquire([[maybe_unused]] void* tag) {
#if defined(CUDA_ON_CPU_TSAN)
  __tsan_acquire(tag);
#endif
}

inline void release([[maybe_unused]] void* tag) {
#if defined(CUDA_ON_CPU_TSAN)
  __tsan_release(tag);
#endif
}

// The context of an OS thread, or, after prepare(), of a fiber.
class Context {
 public:
  Context() {
#if defined(CUDA_ON_CPU_TSAN)
    tsan_ = __tsan_get_current_fiber();
#endif
  }
  ~Context() {
#if defined(CUDA_ON_CPU_TSAN)
    if (owns_tsan_) __tsan_destroy_fiber(tsan_);
#endif
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  // Prepares a fiber that runs entry() on the given stack. entry() must never return.
  void prepare(void (*entry)(), char* stack, size_t size_bytes);
  // Switches to `next`. Returns when another context switches back to this one. for_ever: this context never runs
  // again.
  void switch_to(Context& next, bool for_ever = false);
  // Must be called first in entry().
  void arrive();

 private:
  void* stack_pointer_ = nullptr;
  [[maybe_unused]] const void* stack_ = nullptr;
  [[maybe_unused]] size_t stack_bytes_ = 0;
  [[maybe_unused]] void* fake_stack_ = nullptr;
  [[maybe_unused]] void* tsan_ = nullptr;
  [[maybe_unused]] bool owns_tsan_ = false;
  [[maybe_unused]] bool is_fiber_ = false;
};

}  // namespace cuda_on_cpu
