// What ops.cpp calls after its checks, and what the CPU kernels share.
#pragma once

#include "retinasdk/ops.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define RETINASDK_AVX2 1  // compiled in; has_avx2() says whether this machine runs it
#endif

namespace retinasdk::cpu {

#ifdef RETINASDK_AVX2
bool has_avx2();
#endif

void preprocess(const ImageView& image, const PreprocessOptions& options, float* output);
void decode(const std::vector<HeadLevel>& levels, const DecodeOptions& options, const float* clip_sizes,
            const Candidates& candidates);
void nms(int batch, const Candidates& candidates, const NmsOptions& options, int32_t* kept, int32_t* kept_counts);
void soft_nms(int batch, const Candidates& candidates, const SoftNmsOptions& options, int32_t* kept,
              int32_t* kept_counts, float* scores);
void fuse(int batch, const Candidates& candidates, const FusionOptions& options, const FusedBoxes& fused);
int merge_tiles(const TileBoxes& boxes, const TileGrid& grid, const MergeOptions& options, int32_t* kept,
                int32_t* joined);

// Writes the positions i with values[i] > threshold to positions, ascending, and returns how many: passes() of
// box_math.h for many values at once. positions must have room for count entries.
int positions_above(const float* values, int count, float threshold, int32_t* positions);
const char* simd_name();

}  // namespace retinasdk::cpu
