// Greedy selection in a batch of candidates whose overlaps are known.
//
// Note [Columns]
// The overlaps of a batch are words of 32 bits. Bit b of column word w of member i says whether member 32 * w + b
// suppresses member i, if it is kept. Only earlier members can do that, so the words up to i / 32 matter.
// A word and all members are adjacent in memory, so the threads of a warp read neighboring words.
//
// Note [Greedy by words]
// Greedy NMS keeps a member unless an earlier kept member suppresses it. The members are decided 32 at a time, by the
// warp that holds them. The words before are decided already.
// Inside a word, the warp repeats one vote: who is not suppressed by those that the last vote chose? The first member
// depends on nobody, the second on the first, and so on. So after n votes, the first n members are right, and votes
// that do not change any more are the greedy answer. Usually two or three votes suffice.
// The limit for a class is part of the vote, because it depends on earlier members only, too.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/nms_data.cuh"

namespace retinasdk::cuda {
namespace {

constexpr int kWordsAhead = 8;  // Column words that a thread loads before it uses the first, to hide latency.

// Shared memory of select().
template <int kWords>
struct Selection {
  int32_t class_ids[32 * kWords];
  uint32_t kept[kWords];  // Bit b of word w: member 32 * w + b is kept.
};

// A member of a batch.
struct Member {
  bool alive;  // Whether it may be kept.
  int32_t class_id;
  int places;  // How many more boxes of its class may be kept. Used with limits_classes only.
};

// Returns the place of this thread's member among the kept ones of the batch, or -1 if it is not kept. Sets `kept` to
// the number of kept ones, at most `most`. Members from `count` on do not exist. The block has 32 * kWords threads, one
// for each member, and all of them must call.
template <int kWords>
__device__ int select(Selection<kWords>& shared, const uint32_t* columns, int count, Member member, int most,
                      bool limits_classes, int& kept) {
  constexpr int kMembers = 32 * kWords;
  const int thread = static_cast<int>(threadIdx.x);
  const int own_word = thread / 32;
  const uint32_t earlier = (1u << (thread % 32)) - 1u;
  uint32_t rivals = 0;  // The earlier members of the word that have the same class.
  if (limits_classes) {
    shared.class_ids[thread] = member.class_id;
    for (int lane = 0; lane < 32; ++lane) {
      if (__shfl_sync(kAllLanes, member.class_id, lane) == member.class_id) rivals |= 1u << lane;
    }
    rivals &= earlier;
  }
  // The next words are loaded while these are used. All indices are constants, so the words stay in registers.
  uint32_t next[kWordsAhead];
  const auto load_next = [&](int first) {
#pragma unroll
    for (int w = 0; w < kWordsAhead; ++w) {
      const bool matters = member.alive && first + w <= own_word;
      next[w] = matters ? columns[(first + w) * kMembers + thread] : 0u;
    }
  };
  load_next(0);
  int place = -1;
  kept = 0;
#pragma unroll 1
  for (int first = 0; first < kWords; first += kWordsAhead) {
    uint32_t column[kWordsAhead];
#pragma unroll
    for (int w = 0; w < kWordsAhead; ++w) column[w] = next[w];
    load_next(first + kWordsAhead);
#pragma unroll
    for (int w = 0; w < kWordsAhead; ++w) {
      const int word = first + w;
      if (32 * word >= count || kept == most) return place;
      if (word == own_word) {
        unsigned chosen = __ballot_sync(kAllLanes, member.alive);
        for (unsigned last = 0; chosen != last;) {
          last = chosen;
          const bool has_place = !limits_classes || __popc(rivals & last) < member.places;
          chosen = __ballot_sync(kAllLanes, member.alive && (column[w] & last) == 0u && has_place);
        }
        const int before = kept + __popc(chosen & earlier);
        const bool is_kept = (chosen >> (thread % 32) & 1u) != 0u && before < most;
        chosen = __ballot_sync(kAllLanes, is_kept);
        if (is_kept) place = before;
        if (thread % 32 == 0) shared.kept[word] = chosen;
      }
      __syncthreads();
      uint32_t chosen = shared.kept[word];
      kept += __popc(chosen);
      if ((column[w] & chosen) != 0u) member.alive = false;
      if (limits_classes) {
#pragma unroll 1
        for (; chosen != 0u; chosen &= chosen - 1u) {
          const int bit = __ffs(static_cast<int>(chosen)) - 1;
          if (shared.class_ids[32 * word + bit] == member.class_id) --member.places;
        }
      }
    }
  }
  return place;
}

}  // namespace
}  // namespace retinasdk::cuda
