// The CPU implementation of ops.h. ops.cpp checks the arguments, then calls these functions.
#pragma once

#include "retinasdk/ops.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define RETINASDK_AVX2 1  // AVX2 code is compiled in. Call has_avx2() before using it.
#define RETINASDK_TARGET_AVX2 __attribute__((target("avx2")))
#endif

namespace retinasdk::cpu {

#ifdef RETINASDK_AVX2
// Whether this machine supports AVX2 and BMI.
bool has_avx2();
#endif

void preprocess(const ImageView& image, const PreprocessOptions& options, float* output, int threads);
void yuv_to_rgb(const YuvView& frame, uint8_t* rgb);
void decode(const std::vector<HeadLevel>& levels, const DecodeOptions& options, const float* clip_sizes,
            const Candidates& candidates);
void nms(int batch, const Candidates& candidates, const NmsOptions& options, int32_t* kept, int32_t* kept_counts);
void rotated_nms(int batch, const Candidates& candidates, const NmsOptions& options, bool shares_angle, int32_t* kept,
                 int32_t* kept_counts);
void rotated_ious(const float* boxes, int count, const float* others, int other_count, float* ious);
void soft_nms(int batch, const Candidates& candidates, const SoftNmsOptions& options, int32_t* kept,
              int32_t* kept_counts, float* scores);
void fuse(int batch, const Candidates& candidates, const FusionOptions& options, const FusedBoxes& fused);
int merge_tiles(const TileBoxes& boxes, const TileGrid& grid, const MergeOptions& options, int32_t* kept,
                int32_t* joined);

// Finds the values that are above a threshold, as passes() of box_math.h does for one value.
//
// positions: (count,), filled with the ascending positions of these values. Returns how many there are.
int positions_above(const float* values, int count, float threshold, int32_t* positions);
// The instruction set of positions_above(), see ops.h.
const char* simd_name();

}  // namespace retinasdk::cpu
