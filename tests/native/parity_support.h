// What the comparisons of the CUDA kernels with the CPU functions share. Buffers are exactly as large as the headers
// require, so that the sanitizers detect any access beyond them.
#pragma once

#include <cstdlib>
#include <cstring>
#include <vector>

#include "check.h"
#include "random_cases.h"
#include "retinasdk/ops_cuda.h"

namespace cuda = retinasdk::cuda;

template <typename T>
bool same_bytes(const std::vector<T>& ours, const std::vector<T>& theirs, size_t first, size_t count) {
  return count == 0 || std::memcmp(ours.data() + first, theirs.data() + first, count * sizeof(T)) == 0;
}

// A scratch buffer, filled with a pattern that no kernel may rely on.
class Scratch {
 public:
  explicit Scratch(size_t size_bytes) : data_(std::aligned_alloc(256, size_bytes)), size_bytes_(size_bytes) {
    std::memset(data_, 0xA5, size_bytes_);
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator cuda::Scratch() const { return {data_, size_bytes_}; }

 private:
  void* data_;
  size_t size_bytes_;
};
