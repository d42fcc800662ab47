// Counts what kernels read and write on the emulated device. It needs a build with RETINASDK_COUNT_TRAFFIC.
//
// The kernels are compiled with the compiler's calls for the thread sanitizer. This library answers these calls by
// itself: every load and store of a kernel is one call with an address, and the address tells which memory it is.
//   - Device memory is what allocate() returned. Only this counts as global memory.
//   - Shared memory is the thread-local memory of the program.
//   - The stacks of the CUDA threads stand for registers and are not counted.
//   - Anything else holds arguments of kernels and constants. Reads of it are not counted. A write ends the process,
//     because it is a write to a buffer that the program did not get from allocate().
// A call of memcpy() or memset() inside a kernel is not seen, unless the compiler turns it into loads and stores, as it
// does for sizes up to 16 bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

// What a block did, or all blocks of a launch.
struct Counts {
  uint64_t read_bytes, written_bytes;                // Global memory, without atomic operations.
  uint64_t watched_read_bytes;                       // The part of read_bytes that watch() names.
  uint64_t shared_read_bytes, shared_written_bytes;  // Shared memory, without atomic operations.
  uint64_t atomics, shared_atomics;                  // Atomic operations on global and on shared memory.
  uint64_t barriers;                                 // __syncthreads() of a block.
  uint64_t collectives;                              // Shuffles, votes and __syncwarp() of a warp.
};

struct Launch {
  // The address of the kernel in the symbol table of the program, or 0 for cudaMemsetAsync().
  uint64_t kernel;
  dim3 grid, block;
  Counts total;
  Counts busiest;  // For each count, the highest of any block.
};

// Returns device memory, aligned to 256 bytes. It is never freed.
void* allocate(size_t size_bytes);

// Counts from now on how often each element of this range of device memory is read.
void watch(const void* first, size_t size_bytes, size_t element_bytes);

// Returns the number of reads of the watched element at `address`. Those of the next elements follow.
const uint32_t* reads_of(const void* address);

// Returns the launches since the last call, in order.
std::vector<Launch> take_launches();

}  // namespace cuda_on_cpu
