// Large pages of memory. The convolutions read many arrays in turn, each in another place: with pages of 4 KiB the
// processor spends a part of the time on looking up addresses, most of it in virtual machines.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace retinasdk::cpu {

constexpr std::size_t kLargePage = std::size_t{2} << 20;  // In bytes.

// Asks the system to use large pages for the whole ones among some bytes. Only pages that nobody has written to yet
// change at once. Where the system has no large pages, nothing happens.
inline void prefer_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < kLargePage) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t first = (begin + kLargePage - 1) / kLargePage * kLargePage;
  const std::uintptr_t end = (begin + bytes) / kLargePage * kLargePage;
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

}  // namespace retinasdk::cpu
