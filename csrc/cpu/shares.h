// Divides a loop among threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <future>
#include <system_error>
#include <vector>

namespace retinasdk::cpu {

// Calls part(first, end) for shares of the numbers 0 to count - 1: one share in the calling thread, the others in
// threads that live until all are done. Where the system has no more threads, the calling thread does their shares.
// Throws what a part throws, when all are done. threads: at least 1.
template <typename Part>
void in_shares(int count, int threads, const Part& part) {
  const int shares = std::max(1, std::min(count, threads));
  const auto share = [&](int i) {
    const auto bound = [&](int at) { return static_cast<int>(static_cast<long long>(count) * at / shares); };
    part(bound(i), bound(i + 1));
  };
  std::vector<std::future<void>> others;  // The destructor of a future waits for its thread.
  others.reserve(static_cast<std::size_t>(shares - 1));
  int next = 1;
  try {
    for (; next < shares; ++next) others.push_back(std::async(std::launch::async, share, next));
  } catch (const std::system_error&) {
    // The system has no more threads.
  }
  for (; next < shares; ++next) share(next);  // uncovered: only a system without more threads gets here
  share(0);
  for (std::future<void>& other : others) other.get();
}

}  // namespace retinasdk::cpu
