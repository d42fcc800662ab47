#include "fiber.h"

#include <cstdint>

// cuda_on_cpu_switch(&saved, next) pushes the registers that a call must preserve, stores the stack pointer in `saved`,
// and pops the registers from `next`. swapcontext() of the C library is slower, because it makes a system call for the
// signal mask at every switch.
extern "C" void cuda_on_cpu_switch(void** saved, void* next);

#if defined(__x86_64__)
asm(R"(
.text
.globl cuda_on_cpu_switch
.hidden cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch, . - cuda_on_cpu_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl cuda_on_cpu_switch
.hidden cuda_on_cpu_switch
.type cuda_on_cpu_switch, %function
cuda_on_cpu_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size cuda_on_cpu_switch, . - cuda_on_cpu_switch
)");
#else
#error "cuda_on_cpu supports x86-64 and ARM64 only"
#endif

namespace cuda_on_cpu {
namespace {

// The context that was left by the last switch. The next context passes its stack to the sanitizer.
thread_local Context* departed = nullptr;

}  // namespace

void Context::prepare(void (*entry)(), char* stack, size_t size_bytes) {
  stack_ = stack;
  stack_bytes_ = size_bytes;
  is_fiber_ = true;
  auto* top = reinterpret_cast<uint64_t*>(stack + size_bytes);
#if defined(__x86_64__)
  // Six registers, the return address, and a slot that aligns the stack as after a call.
  top -= 8;
  for (int i = 0; i < 8; ++i) top[i] = 0;
  top[6] = reinterpret_cast<uint64_t>(entry);
#elif defined(__aarch64__)
  top -= 20;
  for (int i = 0; i < 20; ++i) top[i] = 0;
  top[11] = reinterpret_cast<uint64_t>(entry);  // x30
#endif
  stack_pointer_ = top;
#if defined(CUDA_ON_CPU_ASAN)
  // The previous fiber on this stack never returned, so its last frames are still poisoned.
  __asan_unpoison_memory_region(stack, size_bytes);
  fake_stack_ = nullptr;
#endif
#if defined(CUDA_ON_CPU_TSAN)
  if (!owns_tsan_) tsan_ = __tsan_create_fiber(0);  // Creating one is slow, so it is kept with the stack.
  owns_tsan_ = true;
#endif
}

void Context::switch_to(Context& next, [[maybe_unused]] bool for_ever) {
  departed = this;
#if defined(CUDA_ON_CPU_ASAN)
  __sanitizer_start_switch_fiber(for_ever ? nullptr : &fake_stack_, next.stack_, next.stack_bytes_);
#endif
#if defined(CUDA_ON_CPU_TSAN)
  __tsan_switch_to_fiber(next.tsan_, 1);  // 1: the switch does not synchronize the fibers.
#endif
  cuda_on_cpu_switch(&stack_pointer_, next.stack_pointer_);
  arrive();
}

void Context::arrive() {
#if defined(CUDA_ON_CPU_ASAN)
  const void* left = nullptr;
  size_t left_bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack_, &left, &left_bytes);
  if (!departed->is_fiber_) {
    departed->stack_ = left;
    departed->stack_bytes_ = left_bytes;
  }
#endif
}

}  // namespace cuda_on_cpu
