// The contract of the native core. Plain C++17: no Python, no ONNX, no TensorRT.
//
// Every array is C-contiguous, on the host, owned by the caller. Nothing is kept between calls, so every function may
// run in several threads at once. Bad arguments throw std::invalid_argument that says what was wanted and given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "retinasdk/box_coder.h"
#include "retinasdk/overlap_rules.h"

namespace retinasdk {

// -- preprocess ------------------------------------------------------------------------------------------------------

// uint8 (height, width, 3), channels interleaved; rows may be row_bytes apart.
struct ImageView {
  const uint8_t* pixels;
  int height;
  int width;
  std::ptrdiff_t row_bytes;
};

struct PreprocessOptions {
  int resized_height, resized_width;  // the image is resized to this,
  int padded_height, padded_width;    // and put into the upper left corner of a canvas of this size, filled with 0
  float mean[3], std[3];              // on pixel values 0..255, in the order of the output channels
  bool reverse_channels;              // output channel c takes input channel 2 - c
  bool antialias;                     // resize_math.h
};

// Resize, normalise, pad and HWC -> CHW in one go. output: (3, padded_height, padded_width) float32.
void preprocess(const ImageView& image, const PreprocessOptions& options, float* output);

constexpr int kMaxPerImage = 1 << 20;  // upper bound of top_k and max_detections
constexpr int kMaxMerged = 1 << 26;    // boxes of all tiles of an image

// -- decode ----------------------------------------------------------------------------------------------------------

// What the network says of one pyramid level, as it says it.
struct HeadLevel {
  const float* logits;        // (N, A * K, height, width), channel a * K + k, before the sigmoid
  const float* deltas;        // (N, A * 4, height, width), channel a * 4 + 0 to 3; box_coder.h
  const float* base_anchors;  // (A, 4), xyxy around the origin of cell (0, 0), network-input pixels
  int height, width;          // cells
  float stride_y, stride_x;   // network-input pixels from one cell to the next
};

struct DecodeOptions {
  int batch, anchors, classes;     // N, A, K
  float logit_threshold;           // candidates are strictly above
  int top_k;                       // best (anchor, class) pairs of each level and image
  BoxCoder coder;                  // how deltas become boxes
  std::vector<int32_t> class_ids;  // only these classes, each once; empty: all
  bool or_equal = false;           // candidates are also those at logit_threshold itself
  bool drop_empty = false;         // boxes without area after clipping are no candidates
  // (K,): candidates of class k are above class_thresholds[k], too; null: no more than that.
  const float* class_thresholds = nullptr;
  // (N, R, 4) xyxy, network-input pixels, edges continuous: a box of which more than half of the area lies in one of
  // its image's regions is no candidate. The first region without area ends an image's list.
  const float* ignored = nullptr;
  int ignored_regions = 0;  // R
};

// candidates per image at the most: levels * top_k
struct Candidates {
  float* boxes;        // (N, capacity, 4) xyxy, network-input pixels, clipped; see Note [Box convention]
  float* logits;       // (N, capacity)
  int32_t* class_ids;  // (N, capacity)
  int32_t* counts;     // (N,)
  int capacity;
};

// Reads the logits once and makes boxes only for the best top_k of each level. Candidates come level by level, inside a
// level by Note [Rank] with index (cell * A + anchor) * K + class: ties fall to the lower level, anchor, class.
// clip_sizes: (N, 2) height, width in network-input pixels; negative: that axis is not clipped.
// NaN logits and boxes that are not finite are left out; so is a logit of -infinity, even with or_equal.
void decode(const std::vector<HeadLevel>& levels, const DecodeOptions& options, const float* clip_sizes,
            const Candidates& candidates);

// -- nms -------------------------------------------------------------------------------------------------------------

struct NmsOptions {
  float iou_threshold;            // a box is dropped if its IoU with a kept, better one of its class is strictly above
  int max_detections;             // kept per image, over all classes
  bool or_equal = false;          // ... or at iou_threshold itself
  bool inclusive_pixels = false;  // Note [Box convention]
  bool across_classes = false;    // as if all boxes were of one class
  int max_per_class =
      kMaxPerImage;  // kept of each class: once there are so many, the others are dropped, and drop none
};

// Greedy, class-aware non-maximum suppression. kept: (N, max_detections) int32 indices into the image's candidates,
// best first (a higher logit, then the lower index); kept_counts: (N,). Boxes must be finite and logits not NaN: others
// are left out.
void nms(int batch, const Candidates& candidates, const NmsOptions& options, int32_t* kept, int32_t* kept_counts);

// -- soft NMS --------------------------------------------------------------------------------------------------------

struct SoftNmsOptions {
  NmsOptions nms;
  Decay decay;
  float sigma;                    // kGaussian; above 0
  const float* score_thresholds;  // (K,): a score that has fallen to its class's threshold or below drops its box
  int classes;                    // K
};

// Takes the best score that is left, lets the others fall, and starts again. kept, kept_counts: as nms(); scores:
// (N, max_detections), fallen as they are, best first. Equal scores: the lower index first. What never falls is never
// dropped. Scores are the sigmoids of the logits, rounded to float, as they are after each step.
void soft_nms(int batch, const Candidates& candidates, const SoftNmsOptions& options, int32_t* kept,
              int32_t* kept_counts, float* scores);

// -- weighted boxes fusion -------------------------------------------------------------------------------------------

struct FusionOptions {
  NmsOptions nms;
  FusedScore score;
  ScoreScale scale;
  int models;   // that the candidates come from: fewer members than that lower a cluster's score
  int classes;  // K
};

struct FusedBoxes {
  float* boxes;        // (N, max_detections, 4) xyxy
  float* scores;       // (N, max_detections), 0 to 1
  int32_t* class_ids;  // (N, max_detections)
  int32_t* counts;     // (N,)
};

// Weighted boxes fusion (Solovyev et al., 2021, arXiv:1910.13302). Going down the scores, a candidate joins the cluster
// of its class whose fused box it overlaps most, if by more than NmsOptions say (of equal ones the oldest), or founds a
// cluster. A fused box is the mean of its members' corners, weighted by their scores, summed in double in the order of
// joining; its class is the founder's. Its score, the members' mean or best, times min(members, models) / models, is at
// most 1. Best first, of equal scores the older cluster. Candidates whose score is 0 are left out, as are those that
// are not finite.
void fuse(int batch, const Candidates& candidates, const FusionOptions& options, const FusedBoxes& fused);

// -- merge -----------------------------------------------------------------------------------------------------------

// Tiles along one axis of an image, in pixels: spans of one length that cover 0 to extent.
struct TileAxis {
  const int32_t* starts;  // (count,) ascending, from 0
  int count, length, extent;
};

// Tile row * x.count + column is the span `row` of y and the span `column` of x.
struct TileGrid {
  TileAxis y, x;
};

// What was found in the tiles of one image, each of which had its own NMS.
struct TileBoxes {
  const float* boxes;        // (count, 4) xyxy, pixels of the whole image; see Note [Box convention]
  const float* logits;       // (count,)
  const int32_t* class_ids;  // (count,)
  const int32_t* tiles;      // (count,) the tile in the grid; the number of tiles: the image as a whole
  int count;
};

struct MergeOptions {
  float iou_threshold;              // as in NmsOptions
  bool or_equal, inclusive_pixels;  // as in NmsOptions
  float cut_slack_y, cut_slack_x;   // pixels; Note [Cut boxes]
  float cover_limit;                // a cut box is dropped where a kept box of its class covers more of it, 0 to 1
};

// Greedy, class-aware suppression between boxes of different tiles; boxes of one tile leave each other alone. First
// Note [Cut boxes] decides which cut ones are left out; then come the whole boxes, best first, then the remaining cut
// ones. kept: (count,) int32 indices, best first as in nms(); returns how many. Boxes that are not finite and NaN
// logits are left out. On the host for both devices: it works on what their NMS has brought home.
// joined: (count,), or null: the kept box that each one is or, where it is whole and suppressed, goes into: the one
// that it overlaps most (of equal ones the best). -1 for those left out for anything else.
int merge_tiles(const TileBoxes& boxes, const TileGrid& grid, const MergeOptions& options, int32_t* kept,
                int32_t* joined = nullptr);

// Name of the instruction set that the filter of decode() uses on this machine: "avx2", "neon" or "plain".
const char* simd_name();

}  // namespace retinasdk
