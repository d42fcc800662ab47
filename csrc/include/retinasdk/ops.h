// The operations of the native core on the CPU: preprocessing, decoding, suppression and merging of tiles.
//
// The core is plain C++17. It needs no Python, no ONNX Runtime and no TensorRT. See examples/embed_core for a program.
//
// Arrays: every array is C-contiguous, lies in host memory, and belongs to the caller. Input and output arrays must not
// overlap. Shapes use these letters: N images in the batch, A anchors per cell, K classes, C candidates per image.
// Boxes are (x1, y1, x2, y2), float32.
//
// Threads: the functions keep no state between calls, so several threads may call them at the same time. Each call
// works in the calling thread only, but for preprocess(), which can have more.
//
// Errors: an argument outside its range throws std::invalid_argument. The message gives the allowed range and the
// value. Null pointers and arrays that are too short are not detected.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "retinasdk/box_coder.h"
#include "retinasdk/overlap_rules.h"
#include "retinasdk/pixel_format.h"
#include "retinasdk/rotated_box_coder.h"

namespace retinasdk {

// -- preprocess ------------------------------------------------------------------------------------------------------

// An image of shape (height, width, 3), uint8, with interleaved channels.
struct ImageView {
  const uint8_t* pixels;     // The first pixel of the first row.
  int height;                // In pixels, 1 to 65536.
  int width;                 // In pixels, 1 to 65536.
  std::ptrdiff_t row_bytes;  // Bytes from one row to the next. Negative if the rows are stored from bottom to top.
};

// How an image becomes the network's input.
struct PreprocessOptions {
  int resized_height, resized_width;  // The size to which the image is resized, in pixels, 1 to 65536.
  // The size of the output. The resized image is put into its upper left corner, and the rest is filled with 0. In
  // pixels, from the resized size to 65536.
  int padded_height, padded_width;
  float mean[3], std[3];  // Output = (pixel - mean) / std, for pixel values of 0 to 255, in the order of the output
                          // channels. Each std must be above 0.
  bool reverse_channels;  // Whether output channel c takes input channel 2 - c (RGB to BGR, or back).
  // Whether the resize filter widens when the image is made smaller, as Pillow's BILINEAR does. Otherwise two pixels
  // per axis are interpolated, as PyTorch's interpolate(align_corners=False) does.
  bool antialias;
  // Distance between the source positions of neighboring output pixels on both axes, in pixels, 0 to 65536. 0: the
  // source size divided by the resized size, for each axis. OpenCV's resize() takes 1 / scale if it is called with a
  // scale. Must be 0 with antialias.
  double source_step = 0.0;
  // Whether the image is resized as one of 8 bits, bit for bit as Pillow does (with antialias) or OpenCV's INTER_LINEAR
  // (otherwise). See Note [Eight bits] in csrc/math/resize_math.h.
  bool eight_bit = false;
};

constexpr int kMaxThreads = 1024;  // Of one call.

// Resizes, normalizes and pads one image, and moves the channels first.
//
// output: (3, padded_height, padded_width) float32, written completely.
// threads: how many may work on it, the calling one included, 1 to kMaxThreads. Small images get fewer, and none gets
// more than 4. The output does not depend on it.
void preprocess(const ImageView& image, const PreprocessOptions& options, float* output, int threads = 1);

// A camera or decoder frame in host memory, as DeviceImage of ops_cuda.h in device memory.
struct YuvView {
  PixelFormat format;  // kNv12 or kP010.
  const uint8_t* luma;
  std::ptrdiff_t luma_row_bytes;
  const uint8_t* chroma;
  std::ptrdiff_t chroma_row_bytes;
  int height, width;  // In pixels, 2 to 65536, even.
  ColorMatrix matrix;
  bool full_range;
};

// Converts a frame to RGB with the arithmetic of the CUDA kernels, see Note [Color arithmetic] in
// csrc/math/color_math.h.
//
// rgb: (height, width, 3), written completely.
void yuv_to_rgb(const YuvView& frame, uint8_t* rgb);

constexpr int kMaxPerImage = 1 << 20;  // The highest top_k, max_detections and max_per_class.
constexpr int kMaxMerged = 1 << 26;    // The highest number of boxes in all tiles of one image.

// -- decode ----------------------------------------------------------------------------------------------------------

// The head outputs of one feature level. A level has at most 2147483647 (anchor, class) pairs per image.
struct HeadLevel {
  const float* logits;  // (N, A * K, height, width), before the sigmoid. Class k of anchor a is channel a * K + k.
  const float* deltas;  // (N, A * 4, height, width). Delta i of anchor a is channel a * 4 + i. See box_coder.h.
  const float* base_anchors;  // (A, 4), the anchors of the cell in row 0 and column 0, in network-input pixels.
  int height, width;          // In cells, 1 to 65536.
  float stride_y, stride_x;   // Distance from one cell to the next, in network-input pixels.
  // Where the boxes of this level are clipped, in place of clip_sizes, in network-input pixels. Negative: as
  // clip_sizes.
  float clip_height = -1.0f, clip_width = -1.0f;
};

// Which (anchor, class) pairs become candidates, and how their boxes are computed.
struct DecodeOptions {
  int batch;                       // N, 0 to 1048576.
  int anchors;                     // A, 1 to 1024.
  int classes;                     // K, 1 to 65536.
  float logit_threshold;           // A candidate's logit must be above this value. Must not be NaN.
  int top_k;                       // The highest number of candidates per level and image, 1 to kMaxPerImage.
  BoxCoder coder;                  // How deltas become boxes.
  std::vector<int32_t> class_ids;  // The classes to detect, each at most once. Empty: all classes.
  bool or_equal = false;           // Whether a logit that equals a threshold also passes.
  bool drop_empty = false;         // Whether boxes without area after clipping are dropped.
  // (K,): additional thresholds per class. A logit must pass this one and logit_threshold. Null: none.
  const float* class_thresholds = nullptr;
  // (N, R, 4): regions to ignore, in network-input pixels, with continuous edges. A box is dropped if more than half of
  // its area lies inside one region of its image. A region without area ends the list of its image, so shorter lists
  // can be padded with zeros.
  const float* ignored = nullptr;
  int ignored_regions = 0;  // R, 0 to kMaxPerImage.
  // Whether top_k counts anchors instead of (anchor, class) pairs: the anchors with the highest logit of any class are
  // selected, and all pairs of these that pass become candidates, up to top_k * K per level.
  bool top_k_anchors = false;
  // How deltas become rotated boxes, or null for upright boxes. With it, `coder` is not used, HeadLevel::base_anchors
  // is (A, 5), HeadLevel::deltas has deltas_of(rotated->coding) channels for each anchor, and Candidates::boxes is (N,
  // C, 6). See rotated_box_coder.h, and Note [Clipping rotated boxes] in csrc/math/rotated_math.h.
  const RotatedCoder* rotated = nullptr;
};

// Returns the highest number of candidates of an image.
inline int64_t candidate_limit(size_t levels, const DecodeOptions& options) {
  return static_cast<int64_t>(levels) * options.top_k * (options.top_k_anchors ? options.classes : 1);
}

// The candidates of a batch: written by decode(), read by nms(), soft_nms() and fuse(). Entries behind the count of an
// image have no meaning.
struct Candidates {
  float* boxes;        // (N, C, 4), in network-input pixels, clipped to the image. See Note [Box convention].
  float* logits;       // (N, C).
  int32_t* class_ids;  // (N, C), 0 to K - 1.
  int32_t* counts;     // (N,), the number of candidates of each image, 0 to C.
  int capacity;        // C. decode() needs room for candidate_limit().
};

// Decodes head outputs into candidates.
//
// The logits are read once. Boxes are computed only for the best top_k pairs of each level. The candidates of an image
// are ordered by level. Inside a level they are ordered by Note [Rank] with the index (cell * A + anchor) * K + class.
// Therefore equal logits are ordered by level, then by cell, by anchor and by class. With top_k_anchors, the selected
// anchors of a level are ordered by their highest logit in the same way, and the candidates of an anchor by class.
//
// These never become candidates: NaN logits, logits of -infinity (even with or_equal), and boxes that are not finite.
// top_k is applied before boxes are dropped, so an image can have fewer candidates than pairs that pass the thresholds.
//
// clip_sizes: (N, 2), height and width to which the boxes of each image are clipped, in network-input pixels. A
// negative size leaves its axis unclipped.
void decode(const std::vector<HeadLevel>& levels, const DecodeOptions& options, const float* clip_sizes,
            const Candidates& candidates);

// -- nms -------------------------------------------------------------------------------------------------------------

// Options of non-maximum suppression. Soft NMS, fusion and the merging of tiles use the same fields.
struct NmsOptions {
  float iou_threshold;            // A box is suppressed if its IoU with a better, kept box of its class is above this
                                  // value. Must not be NaN.
  int max_detections;             // The highest number of kept boxes per image, over all classes, 1 to kMaxPerImage.
  bool or_equal = false;          // Whether an IoU that equals the threshold also suppresses.
  bool inclusive_pixels = false;  // Whether x2 and y2 name the last pixel inside. See Note [Box convention].
  bool across_classes = false;    // Whether boxes of different classes suppress each other (class-agnostic NMS).
  // The highest number of kept boxes per class and image, 1 to kMaxPerImage. Further boxes of a full class are dropped,
  // and they suppress no other box.
  int max_per_class = kMaxPerImage;
};

// Greedy, class-aware non-maximum suppression.
//
// Boxes that are not finite and NaN logits are skipped.
//
// batch: N, 0 to 1048576.
// kept: (N, max_detections), indices of the kept candidates of each image, best first: a higher logit, then the lower
// index. Entries behind the count are left unchanged.
// kept_counts: (N,), the number of kept candidates of each image.
void nms(int batch, const Candidates& candidates, const NmsOptions& options, int32_t* kept, int32_t* kept_counts);

// -- rotated boxes ---------------------------------------------------------------------------------------------------

// Greedy, class-aware non-maximum suppression of rotated boxes, with the rules of nms().
//
// candidates: `boxes` is (N, C, 6), see rotated_box_coder.h.
// shares_angle: whether both boxes of a pair take the direction of the one with the lower score, as ODTK does.
// kept, kept_counts: as in nms().
void rotated_nms(int batch, const Candidates& candidates, const NmsOptions& options, bool shares_angle, int32_t* kept,
                 int32_t* kept_counts);

// Computes the IoU of each of `count` rotated boxes (count, 6) with each of `other_count` ones (other_count, 6).
//
// ious: (count, other_count). NaN if both boxes have no area.
void rotated_ious(const float* boxes, int count, const float* others, int other_count, float* ious);

// -- soft NMS --------------------------------------------------------------------------------------------------------

// Options of soft NMS.
struct SoftNmsOptions {
  NmsOptions nms;                 // iou_threshold and or_equal matter for Decay::kLinear only.
  Decay decay;                    // How the score of an overlapping box decays.
  float sigma;                    // Width of Decay::kGaussian, above 0. It must be above 0 for Decay::kLinear, too.
  const float* score_thresholds;  // (K,): a box is dropped once its score has decayed to this value or below.
  int classes;                    // K, 1 to 65536.
};

// Soft NMS: keeps the best remaining box, lowers the scores of the boxes that overlap it, and repeats.
//
// Scores are the sigmoids of the logits. They are rounded to float32 at the start and after each decay. A box whose
// score never decays is never dropped. Boxes that are not finite and NaN logits are skipped.
//
// kept, kept_counts: as in nms(), ordered by the final score. Equal scores are ordered by the lower index.
// scores: (N, max_detections), the final scores in the order of `kept`. Entries behind the count are left unchanged.
void soft_nms(int batch, const Candidates& candidates, const SoftNmsOptions& options, int32_t* kept,
              int32_t* kept_counts, float* scores);

// -- weighted boxes fusion -------------------------------------------------------------------------------------------

// Options of weighted boxes fusion.
struct FusionOptions {
  NmsOptions nms;    // iou_threshold decides which boxes belong to a cluster.
  FusedScore score;  // How the score of a fused box is computed.
  ScoreScale scale;  // What Candidates::logits contain.
  int models;        // The number of models that the candidates come from, 1 to 1048576.
  int classes;       // K, 1 to 65536.
};

// The result of fuse(), best first. Entries behind the count of an image are left unchanged.
struct FusedBoxes {
  float* boxes;        // (N, max_detections, 4).
  float* scores;       // (N, max_detections), 0 to 1.
  int32_t* class_ids;  // (N, max_detections).
  int32_t* counts;     // (N,), the number of fused boxes of each image.
};

// Weighted boxes fusion (Solovyev et al., 2021, arXiv:1910.13302).
//
// The candidates are visited by falling score. A candidate joins the cluster of its class whose fused box it overlaps
// most, if the IoU is above iou_threshold; among equal IoUs the oldest cluster wins. Otherwise the candidate starts a
// new cluster.
//
// The corners of a fused box are the means of its members' corners, weighted by their scores. The sums are computed in
// double, in the order in which the members joined. The class is that of the first member. The score is the members'
// mean or best score times min(members, models) / models, and at most 1. Equal scores are ordered by the older cluster.
//
// Candidates with a score of 0, NaN or infinity, and boxes that are not finite, are skipped.
void fuse(int batch, const Candidates& candidates, const FusionOptions& options, const FusedBoxes& fused);

// -- merge -----------------------------------------------------------------------------------------------------------

// The tiles along one axis of an image. All tiles have the same length, and together they cover 0 to extent.
struct TileAxis {
  const int32_t* starts;  // (count,), where the tiles begin, in pixels, ascending from 0.
  int count;              // 1 to 32768.
  int length;             // Of each tile, in pixels, 1 to extent.
  int extent;             // Of the image, in pixels, 1 to 1048576.
};

// The tiles of an image. Tile number row * x.count + column covers y.starts[row] and x.starts[column].
struct TileGrid {
  TileAxis y, x;
};

// The detections in the tiles of one image, after the NMS of each tile.
struct TileBoxes {
  const float* boxes;        // (count, 4), in pixels of the whole image. See Note [Box convention].
  const float* logits;       // (count,).
  const int32_t* class_ids;  // (count,), 0 to 65535.
  const int32_t* tiles;      // (count,), the number of the tile. The number of tiles means: the image as a whole.
  int count;                 // 0 to kMaxMerged.
};

// Options of merge_tiles().
struct MergeOptions {
  float iou_threshold;              // As in NmsOptions.
  bool or_equal, inclusive_pixels;  // As in NmsOptions.
  float cut_slack_y, cut_slack_x;   // How close to a tile's edge a box counts as cut, in pixels, 0 or more.
  float cover_limit;  // A cut box is dropped if a kept box of its class covers a larger part of its area, 0 to 1.
};

// Merges the detections of overlapping tiles: greedy, class-aware suppression between boxes of different tiles.
//
// Boxes of the same tile never suppress each other. Note [Cut boxes] in csrc/math/tile_math.h decides which boxes are
// cut by the edge of their tile, and which of these are dropped at once. The whole boxes come first, best first. The
// remaining cut boxes follow. Boxes that are not finite and NaN logits are skipped. There is no CUDA version: the
// detections are on the host by then.
//
// kept: (count,), indices of the kept boxes, best first as in nms().
// joined: (count,), or null. For a kept box its own index. For a suppressed whole box, the index of the kept box that
// it overlaps most; among equal IoUs the best one. For all other boxes -1.
//
// Returns the number of kept boxes.
int merge_tiles(const TileBoxes& boxes, const TileGrid& grid, const MergeOptions& options, int32_t* kept,
                int32_t* joined = nullptr);

// Returns the instruction set with which decode() filters logits on this machine: "avx2", "neon" or "plain".
const char* simd_name();

}  // namespace retinasdk
