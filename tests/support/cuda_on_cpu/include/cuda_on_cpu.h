// Runs CUDA kernels on the CPU, for tests. The .cu sources are compiled as C++, and this folder replaces the headers of
// CUDA.
//
// The threads of a block are fibers on one OS thread. They are switched at barriers and warp collectives only, so a
// kernel runs deterministically.
//
// Misuse ends the process with a message, where a GPU would hang or give wrong results. Examples are a barrier that a
// part of the block never reaches, and a collective whose mask names a lane that has exited.
//
// The sanitizers work on kernels. The address sanitizer checks every access. The thread sanitizer treats every CUDA
// thread as a fiber that only barriers and collectives synchronize. It reports a missing __syncthreads() or
// __syncwarp() as a data race, even if the result is correct.
//
// Differences from a GPU: the warps of a block never run at the same time. Memory is sequentially consistent. Shared
// memory starts with zeros, or with the values of the previous block on the same OS thread. Registers and occupancy are
// not limited.
//
// Environment variables:
//   CUDA_ON_CPU_SEED=n     shuffles the order of blocks, warps and lanes, if n is not 0
//   CUDA_ON_CPU_THREADS=n  runs n blocks at the same time, each on its own OS thread
//   CUDA_ON_CPU_DEVICES=0  makes the runtime report that there is no GPU
//   CUDA_ON_CPU_INTEGRATED=1  makes it report that the GPU shares the memory of the CPU
#pragma once

#include <cstdint>
#include <functional>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
};

namespace cuda_on_cpu {

enum class Collective { kSync, kBallot, kShuffle };

// Where a CUDA thread is.
struct Position {
  dim3 thread, block, block_size, grid_size;
};

// Of the current CUDA thread. Not thread_local, which would be a call at each use.
extern __thread const Position* position;
const Position& called_position();  // The same by a call.

inline const Position& here() {
#if defined(__SANITIZE_THREAD__)
  return called_position();  // The counters of traffic.cpp would take a read here for one of shared memory.
#else
  return *position;
#endif
}
inline dim3 thread_index() { return here().thread; }
inline dim3 block_index() { return here().block; }
inline dim3 block_size() { return here().block_size; }
inline dim3 grid_size() { return here().grid_size; }
int lane();

// __syncthreads(). Returns the number of threads of the block whose predicate is true.
int barrier(bool predicate);

// A warp collective: waits for all lanes of the mask. kBallot: `value` is the predicate, and the result has one bit per
// lane. kShuffle: the result is the value of lane `source`, which must be in the mask. kSync: there is no result.
uint64_t collective(Collective kind, unsigned mask, uint64_t value, int source);

// Runs `body`, which calls `kernel`, once for each thread of the grid, or records it if the stream is being captured.
// Returns false if the sizes are not valid.
bool launch(const void* kernel, const std::function<void()>& body, dim3 grid, dim3 block, void* stream);
// Runs host work in stream order: immediately, or recorded if the stream is being captured.
void enqueue(const std::function<void()>& work, void* stream);
// Whether what is put on the stream is recorded.
bool is_capturing(void* stream);

}  // namespace cuda_on_cpu
