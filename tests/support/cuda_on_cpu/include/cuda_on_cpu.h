// Runs CUDA kernels on the CPU, for tests. The .cu sources are compiled as C++; this folder stands in for CUDA's
// headers.
//
// The threads of a block are fibers on one OS thread, switched only at barriers and warp collectives, so a kernel runs
// deterministically. Misuse that a GPU answers with a hang or with nonsense ends the process with a message: a barrier
// that part of a block never reaches, a collective whose mask names a lane that has exited. The address sanitizer sees
// every access, and for the thread sanitizer every CUDA thread is a fiber of its own that only barriers and collectives
// synchronise: a missing __syncthreads() or __syncwarp() is a data race there, even where the result comes out right.
//
// What differs from a GPU: no two warps of a block run at once, memory is sequentially consistent, shared memory starts
// as zeros or as the last block on the same OS thread left it, and registers and occupancy have no limits.
//
// CUDA_ON_CPU_SEED=n     shuffles the order of blocks, warps and lanes
// CUDA_ON_CPU_THREADS=n  runs n blocks at once, each on its own OS thread
#pragma once

#include <cstdint>
#include <functional>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
};

namespace cuda_on_cpu {

enum class Collective { kSync, kBallot, kShuffle };

// Of the CUDA thread that runs now.
const dim3& thread_index();
const dim3& block_index();
const dim3& block_size();
const dim3& grid_size();
int lane();

// __syncthreads(): returns how many threads of the block gave a predicate other than 0.
int barrier(bool predicate);

// All lanes of mask meet here. kBallot: value is the predicate, and the result has a bit for each lane; kShuffle: the
// result is the value of lane `source`, which must be in the mask.
uint64_t collective(Collective kind, unsigned mask, uint64_t value, int source);

// Runs body once for each thread of the grid, or records it where the stream is being captured.
bool launch(const std::function<void()>& body, dim3 grid, dim3 block, void* stream);
// Host work in stream order: at once, or recorded.
void enqueue(const std::function<void()>& work, void* stream);

}  // namespace cuda_on_cpu
