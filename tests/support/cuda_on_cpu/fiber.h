// A stack of its own and a switch to it, announced to the sanitizers.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(CUDA_ON_CPU_TSAN)
// Declared here, since this file itself is compiled without -fsanitize=thread: its bookkeeping is no race.
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace cuda_on_cpu {

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

// Either the OS thread's own stack (made without one) or a fiber's.
class Context {
 public:
  Context() {
#if defined(CUDA_ON_CPU_TSAN)
    tsan_ = __tsan_get_current_fiber();
#endif
  }
  // Ready to run entry() on the stack, which it must never leave by returning.
  void prepare(void (*entry)(), char* stack, size_t size_bytes);
  // Stops here and goes on in `next`; returns when some context switches back to this one.
  void switch_to(Context& next, bool for_ever = false);
  // To be called first in entry().
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
