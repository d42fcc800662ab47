// How the scheduler tells the counters of cuda_on_cpu_traffic.h what runs. Without RETINASDK_COUNT_TRAFFIC, nothing is
// counted.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

#if defined(CUDA_ON_CPU_TRAFFIC)
void begin_launch(const void* kernel, dim3 grid, dim3 block);
// The calling OS thread begins to run a block, whose CUDA threads have their stacks in the given memory.
void begin_block(const char* stacks, size_t size_bytes);
void end_block();
void count_barrier();
void count_collective();
void count_memset(size_t size_bytes);
#else
inline void begin_launch(const void*, dim3, dim3) {}
inline void begin_block(const char*, size_t) {}
inline void end_block() {}
inline void count_barrier() {}
inline void count_collective() {}
inline void count_memset(size_t) {}
#endif

}  // namespace cuda_on_cpu
