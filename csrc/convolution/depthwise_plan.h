// How the work of a depthwise block is divided.
//
// Note [Tiles of a block]
// A piece of work computes tiles: some rows, columns and blocks of channels of the depthwise convolution. It walks down
// the rows of a tile. For each step of a few rows, it fills a ring buffer with the rows of the expanded image that the
// step needs and that are not there yet (without an expansion: with a copy of the input), and convolves them. So the
// expanded image, the largest by far, never leaves the cache. The ring buffer contains the padding: columns of zeros
// beside the image. Rows above and below the image are not stored (see DepthwiseRow::rows). An expansion that reads a
// planar image reads it where it lies; only windows that reach beyond its border read a copy.
//
// If a tile has all channels, the piece projects the few rows into the output at once. Tiles next to each other then
// both compute the expanded pixels at their border, which is much for small images with many channels. These are
// divided into groups of channels instead. Nothing is computed twice, but the results wait in memory for the
// projection, a second round of pieces. The plan counts what both cost. The results do not depend on it.
#pragma once

#include <algorithm>
#include <cstddef>

#include "convolution/blocked.h"
#include "convolution/convolution.h"

namespace retinasdk {

// What a block computes. Channels are 0 without an expansion or projection.
struct DepthwiseShape {
  int expand_channels, channels, project_channels;
  Window window;
  bool upsampled;             // Something is enlarged and added.
  int expand_planes = 0;      // If the expansion reads a planar image: its channels,
  Window expand_window = {};  // and how it walks over it.
  int threads = 0;            // That will do the work; 0: unknown.
};

struct DepthwisePlan {
  int batch, height, width, out_height, out_width;
  int blocks;                                // Of the depthwise convolution.
  int tile_height, tile_width, tile_blocks;  // Of the depthwise output.
  int tiles_y, tiles_x, groups;
  int step_rows;  // Output rows of a step.
  int ring_rows, ring_width;
  bool in_two_rounds;  // The projection is a second round.
  int images;          // In each round.
  // In floats. Distances between blocks are odd numbers of cache lines: powers of two would collide in the cache.
  std::ptrdiff_t ring_block, middle_block, added_block;
  int band_pixels;                        // Of a row of the padded copy of a planar image.
  std::size_t ring, middle, added, band;  // The parts of a piece's memory.
  std::size_t waiting;                    // The results that wait for the projection, for an image.
  // The second round:
  int project_pixels, project_blocks;  // Of a piece.
  int project_tiles, project_groups;

  // The pieces of work of each round, for so many images.
  std::size_t tiles(int of_images) const { return static_cast<std::size_t>(of_images) * tiles_y * tiles_x * groups; }
  std::size_t projections(int of_images) const {
    return static_cast<std::size_t>(of_images) * project_tiles * project_groups;
  }
  // The floats that a piece needs.
  std::size_t slot() const { return in_two_rounds ? std::max(ring + band, added) : ring + middle + added + band; }
};

namespace depthwise_plan {

constexpr double kCacheFloats = 160 * 1024;            // What a piece should fit in: most of an L2 cache of 1 MB.
constexpr std::size_t kMostWaiting = 3 * 1024 * 1024;  // Floats that may wait for the second round.
constexpr int kEnoughPixels = 48;                      // For one product: then its weights are used often enough.

// Costs, as a number of multiplications of one channel.
constexpr double kCopy = 3;               // A value from the input to the ring buffer.
constexpr double kWait = 8;               // A value that waits for the second round.
constexpr double kTap = 1.5;              // A tap of the depthwise convolution.
constexpr double kStart = 20e3 / kBlock;  // Of a piece of work.
constexpr double kRound = 300e3 / kBlock;

inline int quotient_up(int value, int divisor) { return (value + divisor - 1) / divisor; }

// Returns how much longer `pieces` equal pieces of work take than evenly divided work. Threads are not equally fast, so
// twice as many are considered too. If their number is unknown: on average over some.
inline double imbalance(int pieces, int threads) {
  const auto of = [pieces](int number) { return static_cast<double>(quotient_up(pieces, number) * number) / pieces; };
  if (threads == 1) return 1;
  if (threads > 1) return (of(threads) + of(2 * threads)) / 2;
  return (of(1) + of(2) + of(4) + of(8) + of(16)) / 5;
}

inline DepthwisePlan with_tiles(const DepthwiseShape& shape, int batch, int height, int width, int tile_height,
                                int tile_width, int tile_blocks) {
  const Window& w = shape.window;
  DepthwisePlan plan{};
  plan.batch = batch, plan.height = height, plan.width = width;
  plan.out_height = w.out_height(height), plan.out_width = w.out_width(width);
  plan.blocks = blocks_of(shape.channels);
  plan.tile_height = tile_height, plan.tile_width = tile_width, plan.tile_blocks = tile_blocks;
  plan.tiles_y = quotient_up(plan.out_height, tile_height);
  plan.tiles_x = quotient_up(plan.out_width, tile_width);
  plan.groups = quotient_up(plan.blocks, tile_blocks);
  plan.in_two_rounds = shape.project_channels > 0 && plan.groups > 1;
  const bool projects = shape.project_channels > 0 && !plan.in_two_rounds;
  plan.step_rows = projects ? std::min(quotient_up(kEnoughPixels, tile_width), tile_height) : 1;
  plan.ring_rows = (plan.step_rows - 1) * w.stride_y + w.height;
  plan.ring_width = (tile_width - 1) * w.stride_x + w.width;
  const auto distance = [](int pixels) { return static_cast<std::ptrdiff_t>(pixels | 1) * kBlock; };
  plan.ring_block = distance(plan.ring_rows * plan.ring_width);
  plan.ring = static_cast<std::size_t>(tile_blocks * plan.ring_block);
  const Window& expand = shape.expand_window;
  plan.band_pixels = (plan.ring_width - 1) * expand.stride_x + expand.width;
  plan.band = static_cast<std::size_t>(shape.expand_planes) * expand.height * plan.band_pixels;
  const int project_blocks = blocks_of(shape.project_channels);
  plan.images = batch;
  if (projects) {
    plan.middle_block = distance(plan.step_rows * tile_width);
    plan.middle = static_cast<std::size_t>(tile_blocks * plan.middle_block);
  }
  if (plan.in_two_rounds) {
    plan.middle_block = distance(plan.out_height * plan.out_width);
    plan.waiting = static_cast<std::size_t>(plan.blocks * plan.middle_block);
    plan.images = static_cast<int>(std::min<std::size_t>(batch, std::max<std::size_t>(kMostWaiting / plan.waiting, 1)));
    // Few blocks of the output at once, so that their weights stay in the cache.
    plan.project_blocks = std::max(256 / plan.blocks / 2 * 2, 2);
    plan.project_pixels = std::min(kEnoughPixels, plan.out_height * plan.out_width);
    plan.project_groups = quotient_up(project_blocks, plan.project_blocks);
    plan.project_tiles = quotient_up(plan.out_height * plan.out_width, plan.project_pixels);
  }
  if (shape.upsampled) {
    plan.added_block = distance(plan.in_two_rounds ? plan.project_pixels : plan.step_rows * tile_width);
    plan.added = static_cast<std::size_t>(project_blocks * plan.added_block);
  }
  return plan;
}

// Returns about how long a plan takes, in multiplications of a block of channels.
inline double cost(const DepthwiseShape& shape, const DepthwisePlan& plan) {
  const Window& w = shape.window;
  const double short_rows = 1.0 + 3.0 / plan.tile_width;
  const double rows = std::min((plan.tile_height - 1) * w.stride_y + w.height, plan.height);
  const double columns = std::min(plan.ring_width, plan.width);
  const double products = shape.expand_channels * shape.expand_window.height * shape.expand_window.width;
  const double fill = shape.expand_channels > 0 ? products * short_rows : kCopy;
  const double outputs = static_cast<double>(plan.tile_height) * plan.tile_width;
  double tile = (rows * columns * fill + outputs * w.height * w.width * kTap * short_rows) * plan.tile_blocks;
  const double project = static_cast<double>(plan.blocks) * round_up(shape.project_channels, kBlock);
  if (!plan.in_two_rounds) tile += outputs * project * short_rows;
  if (static_cast<double>(plan.slot()) > kCacheFloats) tile *= 1.15;
  const auto tiles = static_cast<int>(plan.tiles(plan.images));
  double sum = (tile + kStart) * tiles * imbalance(tiles, shape.threads) * plan.batch / plan.images;
  if (plan.in_two_rounds) {
    const double pixels = static_cast<double>(plan.out_height) * plan.out_width * plan.batch;
    sum += pixels * (project + kWait * plan.blocks) + kRound * quotient_up(plan.batch, plan.images);
  }
  return sum;
}

}  // namespace depthwise_plan

// Returns the plan of the lowest cost. The window must fit in the image.
inline DepthwisePlan plan_depthwise(const DepthwiseShape& shape, int batch, int height, int width) {
  const int out_height = shape.window.out_height(height), out_width = shape.window.out_width(width);
  const int blocks = blocks_of(shape.channels);
  DepthwisePlan best{};
  double lowest = -1;
  for (const int tile_blocks : {blocks, 4, 2, 1}) {
    if (tile_blocks > blocks) continue;
    for (const int tiles_y : {1, 2, 3, 4, 6, 8, 12, 16}) {
      for (const int tiles_x : {1, 2, 3, 4}) {
        if (tiles_y > out_height || tiles_x > out_width) continue;
        using depthwise_plan::quotient_up;
        const DepthwisePlan plan =
            depthwise_plan::with_tiles(shape, batch, height, width, quotient_up(out_height, tiles_y),
                                       quotient_up(out_width, tiles_x), tile_blocks);
        if (plan.in_two_rounds && plan.waiting > depthwise_plan::kMostWaiting) continue;
        const double cost = depthwise_plan::cost(shape, plan);
        if (lowest < 0 || cost < lowest) best = plan, lowest = cost;
      }
    }
  }
  return best;
}

}  // namespace retinasdk
