// Checks the arguments of the functions in ops.h, then calls their implementations. It contains no arithmetic.
#include "retinasdk/ops.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "cpu/kernels_cpu.h"

namespace retinasdk {
namespace {

// The highest side of images and feature levels. Products of sides then fit into int64.
constexpr int kMaxSide = 1 << 16;
// The highest side of an image that is processed in tiles, in pixels. float32 coordinates of this size are exact to 1/8
// pixel.
constexpr int kMaxExtent = 1 << 20;
constexpr int32_t kMaxClasses = 1 << 16;

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

void require_in(int value, int low, int high, const char* name) {
  if (value >= low && value <= high) return;
  throw std::invalid_argument(std::string(name) + " must be " + std::to_string(low) + " to " + std::to_string(high) +
                              ", got " + std::to_string(value));
}

void require_axis(const TileAxis& axis, const std::string& name) {
  require_in(axis.count, 1, kMaxSide / 2, ("tiles along " + name).c_str());
  require_in(axis.extent, 1, kMaxExtent, ("image size along " + name).c_str());
  require_in(axis.length, 1, axis.extent, ("tile length along " + name).c_str());
  // In 64 bits: the starts are any numbers of the caller.
  const int64_t length = axis.length;
  bool covers = axis.starts[0] == 0 && axis.starts[axis.count - 1] + length == axis.extent;
  for (int i = 1; covers && i < axis.count; ++i) {
    covers = axis.starts[i] > axis.starts[i - 1] && axis.starts[i] <= axis.starts[i - 1] + length;
  }
  require(covers, "tiles along " + name + " must ascend from 0 and cover the image without gaps, got " +
                      std::to_string(axis.count) + " tiles of length " + std::to_string(axis.length) + " from " +
                      std::to_string(axis.starts[0]) + " to " + std::to_string(axis.starts[axis.count - 1] + length) +
                      " for an image of size " + std::to_string(axis.extent));
}

template <typename Coder>
void require_coder(const Coder& coder) {
  for (const float weight : coder.weights) {
    require(weight > 0.0f, "box coder weights must be above 0, got " + std::to_string(weight));
  }
  for (const float mean : coder.means) {
    require(std::isfinite(mean), "box coder means must be finite, got " + std::to_string(mean));
  }
}

void require_side(int value, const char* name) { require_in(value, 1, kMaxSide, name); }

void require_suppression(int batch, const Candidates& candidates, const NmsOptions& options, int classes) {
  require_in(options.max_detections, 1, kMaxPerImage, "max_detections");
  require_in(options.max_per_class, 1, kMaxPerImage, "max_per_class");
  require(options.iou_threshold == options.iou_threshold, "iou_threshold must be a number, got NaN");
  require_in(classes, 1, kMaxClasses, "classes");
  require_in(batch, 0, kMaxPerImage, "batch");
  for (int image = 0; image < batch; ++image) {
    require_in(candidates.counts[image], 0, candidates.capacity, "candidate count");
    const int32_t* class_ids = candidates.class_ids + static_cast<int64_t>(image) * candidates.capacity;
    for (int i = 0; i < candidates.counts[image]; ++i) require_in(class_ids[i], 0, classes - 1, "class id");
  }
}

}  // namespace

void preprocess(const ImageView& image, const PreprocessOptions& options, float* output, int threads) {
  require_side(image.height, "image height");
  require_side(image.width, "image width");
  require_side(options.resized_height, "resized height");
  require_side(options.resized_width, "resized width");
  require_in(options.padded_height, options.resized_height, kMaxSide, "padded height");
  require_in(options.padded_width, options.resized_width, kMaxSide, "padded width");
  for (const float std : options.std) {
    require(std > 0.0f, "std must be above 0 in each channel, got " + std::to_string(std));
  }
  require(options.source_step >= 0.0 && options.source_step <= kMaxSide,
          "source_step must be 0 to 65536, got " + std::to_string(options.source_step));
  require(options.source_step == 0.0 || !options.antialias,
          "source_step must be 0 with antialias, got " + std::to_string(options.source_step));
  require_in(threads, 1, kMaxThreads, "threads");
  cpu::preprocess(image, options, output, threads);
}

void yuv_to_rgb(const YuvView& frame, uint8_t* rgb) {
  require(frame.format != PixelFormat::kInterleaved, "yuv_to_rgb needs a frame in NV12 or P010");
  require_side(frame.height, "frame height");
  require_side(frame.width, "frame width");
  require(frame.height % 2 == 0 && frame.width % 2 == 0, "frames must have an even height and width, got " +
                                                             std::to_string(frame.height) + " x " +
                                                             std::to_string(frame.width));
  cpu::yuv_to_rgb(frame, rgb);
}

void decode(const std::vector<HeadLevel>& levels, const DecodeOptions& options, const float* clip_sizes,
            const Candidates& candidates) {
  require(!levels.empty(), "decode needs at least one feature level, got none");
  require_in(options.batch, 0, kMaxPerImage, "batch");
  require_in(options.anchors, 1, 1024, "anchors per cell");
  require_in(options.classes, 1, kMaxClasses, "classes");
  require_in(options.top_k, 1, kMaxPerImage, "top_k");
  require(options.logit_threshold == options.logit_threshold, "logit_threshold must be a number, got NaN");
  require_coder(options.coder);
  if (options.rotated != nullptr) require_coder(*options.rotated);
  for (const HeadLevel& level : levels) {
    require_side(level.height, "level height");
    require_side(level.width, "level width");
    const int64_t pairs = int64_t{1} * level.height * level.width * options.anchors * options.classes;
    require(
        pairs <= std::numeric_limits<int32_t>::max(),
        "a level has " + std::to_string(pairs) + " (anchor, class) pairs, but at most 2147483647 pairs are supported");
  }
  const int64_t wanted = candidate_limit(levels.size(), options);
  require(candidates.capacity >= wanted, "the capacity of the candidates must be at least " + std::to_string(wanted) +
                                             " (levels * top_k, times classes with top_k_anchors), got " +
                                             std::to_string(candidates.capacity));
  for (const int32_t class_id : options.class_ids) require_in(class_id, 0, options.classes - 1, "class id");
  require_in(options.ignored_regions, 0, kMaxPerImage, "ignored regions");
  cpu::decode(levels, options, clip_sizes, candidates);
}

void nms(int batch, const Candidates& candidates, const NmsOptions& options, int32_t* kept, int32_t* kept_counts) {
  require_suppression(batch, candidates, options, kMaxClasses);
  cpu::nms(batch, candidates, options, kept, kept_counts);
}

void rotated_nms(int batch, const Candidates& candidates, const NmsOptions& options, bool shares_angle, int32_t* kept,
                 int32_t* kept_counts) {
  require_suppression(batch, candidates, options, kMaxClasses);
  cpu::rotated_nms(batch, candidates, options, shares_angle, kept, kept_counts);
}

void rotated_ious(const float* boxes, int count, const float* others, int other_count, float* ious) {
  cpu::rotated_ious(boxes, count, others, other_count, ious);
}

void soft_nms(int batch, const Candidates& candidates, const SoftNmsOptions& options, int32_t* kept,
              int32_t* kept_counts, float* scores) {
  require_suppression(batch, candidates, options.nms, options.classes);
  require(options.sigma > 0.0f, "sigma must be above 0, got " + std::to_string(options.sigma));
  cpu::soft_nms(batch, candidates, options, kept, kept_counts, scores);
}

void fuse(int batch, const Candidates& candidates, const FusionOptions& options, const FusedBoxes& fused) {
  require_suppression(batch, candidates, options.nms, options.classes);
  require_in(options.models, 1, kMaxPerImage, "models");
  cpu::fuse(batch, candidates, options, fused);
}

int merge_tiles(const TileBoxes& boxes, const TileGrid& grid, const MergeOptions& options, int32_t* kept,
                int32_t* joined) {
  require_axis(grid.y, "y");
  require_axis(grid.x, "x");
  require(options.iou_threshold == options.iou_threshold, "iou_threshold must be a number, got NaN");
  require(options.cover_limit >= 0.0f && options.cover_limit <= 1.0f,
          "cover_limit must be from 0 to 1, got " + std::to_string(options.cover_limit));
  require(options.cut_slack_y >= 0.0f && options.cut_slack_x >= 0.0f,
          "cut slacks must be at least 0, got " + std::to_string(options.cut_slack_y) + " and " +
              std::to_string(options.cut_slack_x));
  require_in(boxes.count, 0, kMaxMerged, "boxes of all tiles");
  const int tiles = grid.y.count * grid.x.count;
  for (int i = 0; i < boxes.count; ++i) {
    require_in(boxes.class_ids[i], 0, kMaxClasses - 1, "class id");
    require_in(boxes.tiles[i], 0, tiles, "tile");
  }
  return cpu::merge_tiles(boxes, grid, options, kept, joined);
}

const char* simd_name() { return cpu::simd_name(); }

}  // namespace retinasdk
