// Helpers of both convolutions: distribution of work to threads, and aligned memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/large_pages.h"

namespace retinasdk {

// A piece of work, and a function that runs piece(0) to piece(count - 1) in any order and on any threads. It returns
// when all pieces are done.
using Piece = std::function<void(std::size_t)>;
using ParallelFor = std::function<void(std::size_t count, const Piece& piece)>;

// In bytes: one cache line. Loading a vector that lies across two cache lines takes twice as long.
constexpr std::size_t kAlignment = 64;

struct AlignedDelete {
  std::size_t alignment = kAlignment;
  void operator()(float* values) const { ::operator delete[](values, std::align_val_t{alignment}); }
};

using AlignedFloats = std::unique_ptr<float[], AlignedDelete>;

// Allocates uninitialized, aligned floats; many of them in large pages.
inline AlignedFloats make_aligned(std::size_t count) {
  const std::size_t bytes = count * sizeof(float);
  const std::size_t alignment = bytes < cpu::kLargePage ? kAlignment : cpu::kLargePage;
  void* memory = ::operator new[](bytes, std::align_val_t{alignment});
  cpu::prefer_large_pages(memory, bytes);
  return AlignedFloats(static_cast<float*>(memory), AlignedDelete{alignment});
}

// For a vector whose memory begins with a cache line.
template <typename Value>
struct AlignedAllocator {
  using value_type = Value;

  Value* allocate(std::size_t count) {
    return static_cast<Value*>(::operator new(count * sizeof(Value), std::align_val_t{kAlignment}));
  }
  void deallocate(Value* values, std::size_t /*count*/) { ::operator delete(values, std::align_val_t{kAlignment}); }
  bool operator==(const AlignedAllocator& /*other*/) const { return true; }
  bool operator!=(const AlignedAllocator& /*other*/) const { return false; }
};

using AlignedBytes = std::vector<int8_t, AlignedAllocator<int8_t>>;

// Returns the first aligned address in a scratch buffer. The buffer must have kAlignment spare bytes.
inline float* aligned(float* scratch) {
  const auto address = reinterpret_cast<std::uintptr_t>(scratch);
  return scratch + (kAlignment - address % kAlignment) % kAlignment / sizeof(float);
}

// Rounds up to a multiple of `step`.
inline int round_up(int value, int step) { return (value + step - 1) / step * step; }

// Throws std::invalid_argument if a number of channels is not supported.
inline void require_channels(int out_channels, int in_channels) {
  if (out_channels < 1 || in_channels < 1 || out_channels > 65536 || in_channels > 65536) {
    throw std::invalid_argument("channels must be 1 to 65536, got " + std::to_string(out_channels) + " out, " +
                                std::to_string(in_channels) + " in");
  }
}

// Returns the bias (out_channels,), padded with zeros to padded_out. Returns an empty vector if the bias is null.
inline std::vector<float> padded_bias(const float* bias, int out_channels, int padded_out) {
  if (bias == nullptr) return {};
  std::vector<float> padded(bias, bias + out_channels);
  padded.resize(static_cast<std::size_t>(padded_out));
  return padded;
}

}  // namespace retinasdk
