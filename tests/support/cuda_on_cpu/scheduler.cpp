// Runs the threads of a block as fibers. This file is compiled without -fsanitize=thread. CUDA_ON_CPU_TSAN is defined
// if the rest of the program uses it.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "cuda_on_cpu.h"
#include "fiber.h"
#include "traffic_hooks.h"

namespace cuda_on_cpu {
namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kWholeWarp = 0xffffffffu;

// The thread sanitizer tells CUDA threads apart by their fibers, so there each one needs a fiber of its own.
#if defined(CUDA_ON_CPU_TSAN)
constexpr bool kShareFibers = false;
#else
constexpr bool kShareFibers = true;
#endif

enum class State { kNew, kRunnable, kAtBarrier, kAtCollective, kDone };

// A CUDA thread.
struct Thread {
  Context* fiber;  // Since it has begun.
  dim3 index;
  State state;
  // The barrier or collective where the thread waits, or waited last:
  Collective kind;
  unsigned mask;
  uint64_t value, result;
  int source;
  // Tags for the thread sanitizer. A lane that runs ahead releases the next tag, while other lanes still have to
  // acquire the previous one. Therefore there is more than one.
  uint64_t tags[4];
  unsigned meetings, barriers, whole_meetings;
  std::vector<void*> to_acquire;
};

// Returns the number in an environment variable, or `otherwise` if it is not set.
unsigned environment(const char* name, unsigned otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : static_cast<unsigned>(std::strtoul(value, nullptr, 10));
}

unsigned volume(const dim3& size) { return size.x * size.y * size.z; }

// Returns the index of element i of a grid or block.
dim3 place(unsigned i, const dim3& size) { return {i % size.x, i / size.x % size.y, i / size.x / size.y}; }

// What the blocks of one OS thread use, one after the other.
class Workplace {
 public:
  Workplace()
      : stacks_(static_cast<char*>(mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    if (stacks_ == MAP_FAILED) std::abort();
  }
  ~Workplace() {
#if defined(CUDA_ON_CPU_ASAN)
    // Their last frames are still poisoned, and the memory may become that of another thread.
    __asan_unpoison_memory_region(stacks_, kMaxThreads * kStackBytes);
#endif
    munmap(stacks_, kMaxThreads * kStackBytes);
  }
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;

  Thread* threads() { return threads_.get(); }
  char* stacks() const { return stacks_; }

  // Returns fiber i, which calls entry() when it is switched to.
  Context& fiber(unsigned i, void (*entry)()) {
    while (fibers_.size() <= i) fibers_.push_back(std::make_unique<Context>());
    fibers_[i]->prepare(entry, stacks_ + i * kStackBytes, kStackBytes);
    return *fibers_[i];
  }

  std::vector<unsigned> warps, lanes;  // In the order in which they run.

 private:
  char* stacks_;
  std::unique_ptr<Thread[]> threads_ = std::make_unique<Thread[]>(kMaxThreads);
  std::vector<std::unique_ptr<Context>> fibers_;
};

// A thread block that runs on one OS thread.
class Block {
 public:
  Block(const std::function<void()>& body, dim3 grid, dim3 size, dim3 index, unsigned seed)
      : body(body), count_(volume(size)), position_{{}, index, size, grid} {
    if (seed != 0) random_.emplace(seed);
  }

  void run();
  void stop(State state);
  bool begin_next();

  Thread& current() { return threads_[current_]; }
  int lane() const { return static_cast<int>(current_ % 32); }
  unsigned warp() const { return current_ / 32; }
  [[noreturn]] void die(const char* what) const {
    const dim3& index = position_.block;
    std::fprintf(stderr, "cuda_on_cpu: %s (block %u, %u, %u; thread %u)\n", what, index.x, index.y, index.z, current_);
    std::abort();
  }

  const std::function<void()>& body;
  int predicates = 0;  // Of the barrier where threads arrive now.
  int last_count = 0;  // Of the barrier that was passed last.
  uint64_t barrier_tags[2] = {};
  // Of the collectives of whole warps. One tag for all lanes is much faster than one for each.
  uint64_t warp_tags[kMaxThreads / 32][2] = {};
  uint64_t begin_tag = 0, end_tag = 0;

 private:
  static Workplace& workplace() {
    static thread_local Workplace kept;
    return kept;
  }
  void start();
  void begin(unsigned i, Context& fiber);
  void proceed(unsigned i);
  bool run_warp(unsigned warp);
  bool resolve_collectives(unsigned first, unsigned last);
  void meet(unsigned first, unsigned mask);
  void order(unsigned first, unsigned last, std::vector<unsigned>& indices);

  const unsigned count_;
  Position position_;
  std::optional<std::mt19937> random_;  // Only if the order is shuffled.
  Workplace& place_ = workplace();
  Thread* const threads_ = place_.threads();
  Context scheduler_;
  unsigned current_ = 0;
  unsigned fibers_ = 0;              // In use.
  size_t next_ = 0;                  // Which of the ordered lanes comes next.
  unsigned waiting_ = 0, done_ = 0;  // Threads at the barrier, and those that have ended.
};

thread_local Block* running = nullptr;

// The entry of each fiber.
void enter_fiber() {
  Block& block = *running;
  block.current().fiber->arrive();
  do {
    acquire(&block.begin_tag);
    block.body();
    release(&block.end_tag);
  } while (block.begin_next());
  block.stop(State::kDone);
}

// Switches to the scheduler. Returns when the scheduler continues this thread.
void Block::stop(State state) {
  Thread& thread = current();
  thread.state = state;
  if (state == State::kAtBarrier) ++waiting_;
  if (state == State::kDone) ++done_;
  thread.fiber->switch_to(scheduler_, state == State::kDone);
}

// Ends the current thread and begins the next lane on the same fiber, which saves most switches of kernels without
// barriers. Returns false if that lane has begun before, or there is none.
bool Block::begin_next() {
  if (!kShareFibers || next_ == place_.lanes.size()) return false;
  const unsigned next = place_.lanes[next_];
  if (threads_[next].state != State::kNew) return false;
  Thread& ended = current();
  ended.state = State::kDone;
  ++done_;
  ++next_;
  begin(next, *ended.fiber);
  return true;
}

void Block::begin(unsigned i, Context& fiber) {
  threads_[i].fiber = &fiber;
  proceed(i);
}

// Makes a thread the current one.
void Block::proceed(unsigned i) {
  current_ = i;
  threads_[i].state = State::kRunnable;
  position_.thread = threads_[i].index;
}

// Writes the numbers from first to last - 1, in the order in which they run.
void Block::order(unsigned first, unsigned last, std::vector<unsigned>& indices) {
  indices.resize(last - first);
  std::iota(indices.begin(), indices.end(), first);
  if (random_) std::shuffle(indices.begin(), indices.end(), *random_);
}

void Block::start() {
  for (unsigned i = 0; i < count_; ++i) {
    Thread& thread = threads_[i];
    thread.index = place(i, position_.block_size);
    thread.state = State::kNew;
    thread.meetings = thread.barriers = thread.whole_meetings = 0;
  }
}

void Block::run() {
  running = this;
  position = &position_;
  start();
  release(&begin_tag);
  begin_block(place_.stacks(), kMaxThreads * kStackBytes);
  for (;;) {
    bool moved = false;
    order(0, (count_ + 31) / 32, place_.warps);
    for (const unsigned warp : place_.warps) moved = run_warp(warp) || moved;
    if (done_ == count_) break;
    if (waiting_ == count_) {
      count_barrier();
      last_count = predicates;
      predicates = 0;
      waiting_ = 0;
      for (unsigned i = 0; i < count_; ++i) threads_[i].state = State::kRunnable;
    } else if (waiting_ + done_ == count_) {
      die("__syncthreads() is reached by a part of the block only: other threads have exited");
    } else if (!moved) {
      die("deadlock: some threads wait at __syncthreads(), others in a warp collective");
    }
  }
  end_block();
  acquire(&end_tag);
  running = nullptr;
  position = nullptr;
}

// Runs the lanes of a warp until each waits for others or is done. Returns whether any lane ran.
bool Block::run_warp(unsigned warp) {
  const unsigned first = 32 * warp;
  const unsigned last = std::min(count_, first + 32);
  bool moved = false;
  do {
    order(first, last, place_.lanes);
    for (next_ = 0; next_ < place_.lanes.size();) {
      const unsigned i = place_.lanes[next_++];
      if (threads_[i].state == State::kNew) {
        begin(i, place_.fiber(fibers_++, enter_fiber));
      } else if (threads_[i].state == State::kRunnable) {
        proceed(i);
      } else {
        continue;
      }
      scheduler_.switch_to(*threads_[i].fiber);
      moved = true;
    }
  } while (resolve_collectives(first, last));
  return moved;
}

// Completes the collectives in which every lane of the mask waits. Returns whether there was one.
bool Block::resolve_collectives(unsigned first, unsigned last) {
  bool any = false;
  unsigned seen = 0;  // Lanes whose collective is complete, or waits for others.
  for (unsigned i = first; i < last; ++i) {
    Thread& thread = threads_[i];
    if (thread.state != State::kAtCollective || (seen >> (i - first) & 1u) != 0u) continue;
    current_ = i;
    seen |= thread.mask;
    bool complete = true;
    for (unsigned lane = 0; lane < 32; ++lane) {
      if ((thread.mask >> lane & 1u) == 0u) continue;
      if (first + lane >= last) die("the mask of a warp collective names a lane beyond the block");
      const Thread& other = threads_[first + lane];
      if (other.state == State::kDone) die("the mask of a warp collective names a lane that has exited");
      if (other.state != State::kAtCollective) {
        complete = false;
      } else if (other.mask != thread.mask || other.kind != thread.kind) {
        die("lanes of one mask wait in different warp collectives");
      }
    }
    if (!complete) continue;
    meet(first, thread.mask);
    count_collective();
    any = true;
  }
  return any;
}

// Computes the results of a collective for the lanes of its mask.
void Block::meet(unsigned first, unsigned mask) {
  unsigned ballot = 0;
  std::vector<void*> tags;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1u) == 0u) continue;
    Thread& thread = threads_[first + lane];
    ballot |= (thread.value != 0 ? 1u : 0u) << lane;
    if (mask != kWholeWarp) tags.push_back(&thread.tags[thread.meetings % 4]);
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1u) == 0u) continue;
    Thread& thread = threads_[first + lane];
    if (thread.kind == Collective::kShuffle) {
      current_ = first + lane;
      if ((mask >> thread.source & 1u) == 0u) die("a shuffle reads from a lane outside its mask");
      thread.result = threads_[first + static_cast<unsigned>(thread.source)].value;
    } else {
      thread.result = ballot;
    }
    if (mask != kWholeWarp) thread.to_acquire = tags;
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1u) != 0u) threads_[first + lane].state = State::kRunnable;
  }
}

}  // namespace

__thread const Position* position = nullptr;

const Position& called_position() { return *position; }
int lane() { return running->lane(); }

int barrier(bool predicate) {
  Block& block = *running;
  uint64_t* tag = &block.barrier_tags[block.current().barriers++ % 2];
  if (predicate) ++block.predicates;
  release(tag);
  block.stop(State::kAtBarrier);
  acquire(tag);
  return block.last_count;
}

uint64_t collective(Collective kind, unsigned mask, uint64_t value, int source) {
  Block& block = *running;
  Thread& thread = block.current();
  if ((mask >> block.lane() & 1u) == 0u) block.die("a lane calls a warp collective whose mask leaves it out");
  thread.kind = kind;
  thread.mask = mask;
  thread.value = value;
  thread.source = source;
  if (mask == kWholeWarp) {
    uint64_t* tag = &block.warp_tags[block.warp()][thread.whole_meetings++ % 2];
    release(tag);
    block.stop(State::kAtCollective);
    acquire(tag);
  } else {
    release(&thread.tags[thread.meetings % 4]);
    block.stop(State::kAtCollective);
    for (void* tag : thread.to_acquire) acquire(tag);
    ++thread.meetings;
  }
  return thread.result;
}

// Runs a kernel. launch() in runtime.cpp calls it in stream order.
void run_grid(const void* kernel, const std::function<void()>& body, dim3 grid, dim3 size) {
  begin_launch(kernel, grid, size);
  const unsigned seed = environment("CUDA_ON_CPU_SEED", 0);
  std::vector<unsigned> blocks(volume(grid));
  std::iota(blocks.begin(), blocks.end(), 0u);
  std::mt19937 random(seed);
  if (seed != 0) std::shuffle(blocks.begin(), blocks.end(), random);
  const unsigned workers = std::max(1u, environment("CUDA_ON_CPU_THREADS", 1));
  // Each worker has its own blocks. If they took them from one queue, the first worker would run all of them on a busy
  // machine, and no race between blocks could be seen.
  const auto work = [&](size_t worker) {
    for (size_t i = worker; i < blocks.size(); i += workers) {
      Block(body, grid, size, place(blocks[i], grid), seed == 0 ? 0 : seed + blocks[i]).run();
    }
  };
  if (workers == 1) return work(0);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < workers; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace cuda_on_cpu
