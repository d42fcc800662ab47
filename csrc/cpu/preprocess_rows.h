// The resizes of preprocess(): each computes the rows of the network's input one after the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels_cpu.h"
#include "cpu/preprocess_taps.h"

namespace retinasdk::cpu {

// The source channel and the normalization of each output channel.
struct Channels {
  int source[3];
  float gain[3];
  float bias[3];
};

using OutputRow = float* const (&)[3];  // One row of each output channel.

// Resizes with floating-point numbers: blends source rows, then the pixels along the blended row.
class FloatRows {
 public:
  FloatRows(const ImageView& image, const PreprocessOptions& options, const Channels& channels);
  void write(int y, OutputRow out);

 private:
  const ImageView& image_;
  const Channels& channels_;
  int width_;
  Taps<float> rows_;
  ColumnTaps<float> columns_;
  std::vector<float> blended_;
};

// Resizes as Pillow and OpenCV resize images of 8 bits, see Note [Eight bits]: resizes source rows along themselves,
// then blends the resized rows.
class EightBitRows {
 public:
  EightBitRows(const ImageView& image, const PreprocessOptions& options, const Channels& channels);
  void write(int y, OutputRow out);

 private:
  const int16_t* resized_row(int row, int first, int count);

  const ImageView& image_;
  const Channels& channels_;
  int width_;
  bool antialias_;
  Taps<int32_t> rows_;
  ColumnTaps<int32_t> columns_;
  int strip_;                         // How many columns are computed at a time.
  std::vector<uint8_t> source_;       // One source row, with room behind it that is read and weighs 0.
  std::vector<int> kept_;             // Which source row each place holds, or -1.
  std::vector<int16_t> resized_;      // (places, 3, columns of a strip)
  std::vector<const int16_t*> taps_;  // The resized rows of one output row.
};

// Normalizes the pixels of an image that keeps its size: a tile, or a frame of a camera that was set to it.
class SameRows {
 public:
  SameRows(const ImageView& image, const Channels& channels) : image_(image), channels_(channels) {}
  void write(int y, OutputRow out);

 private:
  const ImageView& image_;
  const Channels& channels_;
};

}  // namespace retinasdk::cpu
