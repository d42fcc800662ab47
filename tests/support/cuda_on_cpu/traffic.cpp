// The counters of cuda_on_cpu_traffic.h. This file is compiled without -fsanitize=thread.
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "cuda_on_cpu_traffic.h"
#include "traffic_hooks.h"

namespace cuda_on_cpu {
namespace {

constexpr size_t kDeviceBytes = size_t{1} << 36;  // Of addresses. Memory is used only for what is written.
constexpr size_t kAlignment = 256;

// A range of addresses.
struct Range {
  uintptr_t begin = 0;
  size_t size_bytes = 0;

  // An address below `begin` gives a difference that is larger than any size.
  bool contains(uintptr_t address) const { return address - begin < size_bytes; }
};

// The elements whose reads are counted one by one.
struct Watched {
  Range range;
  size_t element_bytes = 1;
  std::vector<uint32_t> reads;
};

// What the OS thread counts for the block that it runs.
struct Observer {
  Range stacks, shared;
  Counts counts;
};

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "cuda_on_cpu: %s\n", what);
  std::abort();
}

Range map_device() {
  void* data = mmap(nullptr, kDeviceBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) die("there is no address space for device memory");
  return {reinterpret_cast<uintptr_t>(data), kDeviceBytes};
}

const Range device = map_device();
size_t allocated_bytes = 0;
Watched watched;
std::mutex launches_mutex;
std::vector<Launch> launches;
thread_local Observer observer;
thread_local bool observing = false;  // Whether this OS thread runs a block now.

// The first object that dl_iterate_phdr() visits is the program itself.
template <typename Body>
void visit_program(Body body) {
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        (*static_cast<Body*>(data))(*info);
        return 1;
      },
      &body);
}

// Returns the thread-local memory of the program, for the calling OS thread.
Range thread_local_memory() {
  Range found;
  visit_program([&](const dl_phdr_info& info) {
    for (int i = 0; i < info.dlpi_phnum; ++i) {
      if (info.dlpi_phdr[i].p_type != PT_TLS) continue;
      found = {reinterpret_cast<uintptr_t>(info.dlpi_tls_data), info.dlpi_phdr[i].p_memsz};
    }
  });
  return found;
}

// Calls body(count, count of the other) for each count.
template <typename Body>
void for_each_count(Counts& ours, const Counts& theirs, Body body) {
  for (uint64_t Counts::* count : {&Counts::read_bytes, &Counts::written_bytes, &Counts::watched_read_bytes,
                                   &Counts::shared_read_bytes, &Counts::shared_written_bytes, &Counts::atomics,
                                   &Counts::shared_atomics, &Counts::barriers, &Counts::collectives}) {
    body(ours.*count, theirs.*count);
  }
}

void count_read(const void* pointer, size_t size_bytes) {
  if (!observing) return;
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (observer.stacks.contains(address)) return;
  if (device.contains(address)) {
    observer.counts.read_bytes += size_bytes;
    if (!watched.range.contains(address)) return;
    observer.counts.watched_read_bytes += size_bytes;
    const size_t first = (address - watched.range.begin) / watched.element_bytes;
    const size_t last = (address + size_bytes - 1 - watched.range.begin) / watched.element_bytes;
    for (size_t i = first; i <= last; ++i) __atomic_fetch_add(&watched.reads[i], 1u, __ATOMIC_RELAXED);
  } else if (observer.shared.contains(address)) {
    observer.counts.shared_read_bytes += size_bytes;
  }
}

void count_write(const void* pointer, size_t size_bytes) {
  if (!observing) return;
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (observer.stacks.contains(address)) return;
  if (device.contains(address)) {
    observer.counts.written_bytes += size_bytes;
  } else if (observer.shared.contains(address)) {
    observer.counts.shared_written_bytes += size_bytes;
  } else {
    die("a kernel writes to memory that is neither from allocate() nor shared");
  }
}

void count_atomic(const volatile void* pointer) {
  if (!observing) return;
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (device.contains(address)) {
    ++observer.counts.atomics;
  } else if (observer.shared.contains(address)) {
    ++observer.counts.shared_atomics;
  } else {
    die("an atomic operation of a kernel is on memory that is neither from allocate() nor shared");
  }
}

}  // namespace

void* allocate(size_t size_bytes) {
  void* data = reinterpret_cast<void*>(device.begin + allocated_bytes);
  allocated_bytes += (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (allocated_bytes > device.size_bytes) die("there is no device memory left");
  return data;
}

void watch(const void* first, size_t size_bytes, size_t element_bytes) {
  watched.range = {reinterpret_cast<uintptr_t>(first), size_bytes};
  watched.element_bytes = element_bytes;
  watched.reads.assign(size_bytes / element_bytes, 0);
}

const uint32_t* reads_of(const void* address) {
  const uintptr_t offset = reinterpret_cast<uintptr_t>(address) - watched.range.begin;
  return watched.reads.data() + offset / watched.element_bytes;
}

std::vector<Launch> take_launches() { return std::exchange(launches, {}); }

void begin_launch(const void* kernel, dim3 grid, dim3 block) {
  uintptr_t base = 0;
  visit_program([&](const dl_phdr_info& info) { base = info.dlpi_addr; });
  launches.push_back({reinterpret_cast<uintptr_t>(kernel) - base, grid, block, {}, {}});
}

void begin_block(const char* stacks, size_t size_bytes) {
  observer = {{reinterpret_cast<uintptr_t>(stacks), size_bytes}, thread_local_memory(), {}};
  observing = true;
}

void end_block() {
  observing = false;
  const std::lock_guard lock(launches_mutex);
  for_each_count(launches.back().total, observer.counts, [](uint64_t& sum, uint64_t count) { sum += count; });
  for_each_count(launches.back().busiest, observer.counts,
                 [](uint64_t& highest, uint64_t count) { highest = std::max(highest, count); });
}

void count_barrier() { ++observer.counts.barriers; }
void count_collective() { ++observer.counts.collectives; }

void count_memset(size_t size_bytes) {
  Launch launch{};
  launch.total.written_bytes = launch.busiest.written_bytes = size_bytes;
  launches.push_back(launch);
}

}  // namespace cuda_on_cpu

using cuda_on_cpu::count_atomic;
using cuda_on_cpu::count_read;
using cuda_on_cpu::count_write;

// -- the calls of the compiler ---------------------------------------------------------------------------------------

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}

#define ACCESSES(size)                                                           \
  void __tsan_read##size(void* address) { count_read(address, size); }           \
  void __tsan_write##size(void* address) { count_write(address, size); }         \
  void __tsan_unaligned_read##size(void* address) { count_read(address, size); } \
  void __tsan_unaligned_write##size(void* address) { count_write(address, size); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
#undef ACCESSES
void __tsan_read_range(void* address, size_t size_bytes) { count_read(address, size_bytes); }
void __tsan_write_range(void* address, size_t size_bytes) { count_write(address, size_bytes); }

// An atomic load or store is an access. Everything else is an atomic operation, whose bytes are not counted. All are
// carried out in the strongest order, which is right for any that was asked for.
#define ATOMICS(bits, type)                                                                                        \
  type __tsan_atomic##bits##_load(const volatile type* target, int) {                                              \
    count_read(const_cast<const type*>(target), sizeof(type));                                                     \
    return __atomic_load_n(target, __ATOMIC_SEQ_CST);                                                              \
  }                                                                                                                \
  void __tsan_atomic##bits##_store(volatile type* target, type value, int) {                                       \
    count_write(const_cast<const type*>(target), sizeof(type));                                                    \
    __atomic_store_n(target, value, __ATOMIC_SEQ_CST);                                                             \
  }                                                                                                                \
  type __tsan_atomic##bits##_exchange(volatile type* target, type value, int) {                                    \
    count_atomic(target);                                                                                          \
    return __atomic_exchange_n(target, value, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                                \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile type* target, type* expected, type value, int, int) { \
    count_atomic(target);                                                                                          \
    return __atomic_compare_exchange_n(target, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);        \
  }                                                                                                                \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile type* target, type* expected, type value, int, int) {   \
    return __tsan_atomic##bits##_compare_exchange_strong(target, expected, value, 0, 0);                           \
  }                                                                                                                \
  FETCH(bits, type, add) FETCH(bits, type, sub) FETCH(bits, type, and) FETCH(bits, type, or) FETCH(bits, type, xor)
#define FETCH(bits, type, name)                                                     \
  type __tsan_atomic##bits##_fetch_##name(volatile type* target, type value, int) { \
    count_atomic(target);                                                           \
    return __atomic_fetch_##name(target, value, __ATOMIC_SEQ_CST);                  \
  }
ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
#undef ATOMICS
#undef FETCH
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

}  // extern "C"
