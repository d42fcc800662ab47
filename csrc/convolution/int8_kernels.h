// The inner loops of the 8-bit convolutions, compiled once for each instruction set, and the choice between them.
//
// Codes are uint8, blocked: (batch, ceil(channels / 16), height, width, 16). A code stands for the number
// scale * (code - zero). Weights are int8 without a zero point. Sums are int32 and exact. A sum becomes a code as in
// ONNX Runtime: round(sum * multiplier) + zero, ties to the even number, and limited. So codes equal those of its
// QLinearConv, and those of all instruction sets equal each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace retinasdk::int8 {

// How numbers become codes.
struct CodeLimits {
  int zero = 0;  // The code of the number 0.
  int low = 0, high = 255;
};

constexpr int kMostBlocks = 5;  // Blocks of outputs that a product has at most, so that its sums stay in registers.

// Pixels times a matrix of weights. Steps are in bytes, if they are of codes.
struct Product {
  int count;  // Pixels.

  // Block b of the input of pixel i, at tap t, is at input + taps[t] + b * in_block_step + i * in_pixel_step.
  const uint8_t* input;  // As Kernels::prepare() writes it.
  std::ptrdiff_t in_pixel_step, in_block_step;
  int groups;  // Of `dot` input channels, see Kernels. Each block has 16 / dot, the last one may have fewer.
  const std::ptrdiff_t* taps;
  int tap_count;

  const int8_t* weights;  // (tap_count, groups, blocks, 16 out, dot in), or blocks before groups: see WeightSteps.
  int blocks;             // Of outputs, 1 to kMostBlocks.
  const int32_t* start;   // (blocks, 16): the sums start here.

  // Block b of pixel i of the codes is at codes + b * out_block_step + i * 16. Null: the sums are wanted.
  uint8_t* codes;
  std::ptrdiff_t out_block_step;
  const float* multipliers;  // (blocks, 16).
  CodeLimits limits;

  int32_t* sums;  // (count, blocks, 16), pixels are sums_step numbers apart.
  std::ptrdiff_t sums_step;
};

// One row of a depthwise convolution, for one block of channels.
struct DepthwiseRow {
  int side;                    // 3 or 5.
  int stride;                  // 1 or 2.
  int count;                   // Pixels of the output.
  const uint8_t* const* rows;  // (side,) rows of the input as Kernels::arrange() writes them.
  const int8_t* weights;       // As in DepthwiseConv.
  const int32_t* start;        // (16,)
  const float* multipliers;    // (16,)
  CodeLimits limits;
  uint8_t* codes;  // (count, 16)
};

// The sum of two images of codes: round(fma(a, a_ratio, fma(b, b_ratio, offset))), limited. Where a sum lies halfway
// between two codes, its last bit decides: the order is that of ONNX Runtime's QLinearAdd on x86-64.
struct CodeSum {
  float a_ratio, b_ratio;  // Scale of the input / scale of the sum.
  float offset;            // Zero of the sum - fma(a_ratio, zero of a, b_ratio * zero of b).
  int low, high;
};

struct Kernels {
  const char* name;  // "vnni", "avx_vnni", "avx2", "dotprod" or "plain".
  // How many products one step adds to each of 16 sums. 4: of bytes. 2: of numbers of 16 bits, for processors without
  // products of bytes. So `dot` codes, as multiply() reads them, take 4 bytes, and `dot` weights of 16 outputs take 64.
  int dot;
  bool one_block;   // Whether a tile has sums of one block of outputs, for want of registers.
  int code_offset;  // What prepare() and arrange() subtract from codes: 128, where the products are of signed bytes.

  void (*multiply)(const Product& product);
  // Copies codes for multiply(). `count` is a multiple of 16. Null: multiply() reads codes as they are.
  void (*prepare)(const uint8_t* codes, std::size_t count, uint8_t* to);
  // Arranges a row of (width, 16) codes, its padding included, for depthwise_row(): bytes 32 * x to 32 * x + 63, for
  // even x, are pixels x to x + dot - 1 as (16, dot). Reads padded_bytes(width), writes up to arranged_bytes(width).
  void (*arrange)(const uint8_t* padded, int width, uint8_t* arranged);
  void (*depthwise_row)(const DepthwiseRow& row);
  // Both for int8_winograd.h; null with a dot of 4. 6 x 6 pixels of 16 codes, whose rows are row_step apart, to 36
  // times 16 numbers for multiply(), position_step bytes apart.
  void (*winograd_input)(const uint8_t* pixels, std::ptrdiff_t row_step, uint8_t* to, std::ptrdiff_t position_step);
  // 36 times 16 sums, position_step numbers apart, to codes (4, 4, 16). start and multipliers: (16,).
  void (*winograd_output)(const int32_t* sums, std::ptrdiff_t position_step, const int32_t* start,
                          const float* multipliers, const CodeLimits& limits, uint8_t* codes);
  void (*add)(const uint8_t* a, const uint8_t* b, std::size_t count, const CodeSum& sum, uint8_t* codes);
  // (count, 16) numbers to codes: round(number / scale) + zero.
  void (*quantize)(const float* numbers, std::size_t count, float scale, int zero, uint8_t* codes);
  // 16 planes of `count` numbers to (count, 16) codes. Null: zeros.
  void (*quantize_planes)(const float* const* planes, std::size_t count, float scale, int zero, uint8_t* codes);
  // (count, 16) codes to 16 planes. Null: those are left out.
  void (*to_planes)(const uint8_t* codes, std::size_t count, uint8_t* const* planes);
};

constexpr int kVectorBytes = 64;  // `dot` weights of each of 16 outputs.

// The bytes of a code, as multiply() reads it.
inline int code_bytes(const Kernels& kernels) { return 4 / kernels.dot; }
// The number of groups that hold some input channels.
inline int groups_of(int in_channels, const Kernels& kernels) { return (in_channels + kernels.dot - 1) / kernels.dot; }

// How many vectors of arranged pixels an output of a depthwise convolution reads from each row. Only even pixels begin
// a vector, so an output may begin with the second pixel of one.
constexpr int vectors_per_row(int side, int dot) { return (side + dot) / dot; }

// Where vectors of weights lie: how far the next group of inputs and the next block of outputs are, in bytes. A tile of
// several blocks reads theirs together. A tile of one block reads that in a row, which processors foresee.
struct WeightSteps {
  std::ptrdiff_t group, block;

  WeightSteps(bool one_block, int groups, int blocks)
      : group((one_block ? 1 : blocks) * kVectorBytes), block((one_block ? groups : 1) * kVectorBytes) {}
};

// Sets one of the `dot` weights of one of the 16 outputs of a vector.
inline void set_weight(int8_t* vector, int dot, int output, int place, int16_t weight) {
  if (dot == 4) {
    vector[output * 4 + place] = static_cast<int8_t>(weight);
  } else {
    std::memcpy(vector + (output * 2 + place) * 2, &weight, sizeof weight);
  }
}

// The last pixels of an arranged row are read together with others behind it, which do not count.
constexpr int kArrangedBeyond = 6;
inline std::size_t padded_bytes(int width) { return (static_cast<std::size_t>(width) + kArrangedBeyond + 6) / 4 * 64; }
inline std::size_t arranged_bytes(int width) {
  return (static_cast<std::size_t>(width) + kArrangedBeyond + 3) / 2 * 64;
}

// The fastest kernels that this processor can run, and that RETINASDK_ISA allows. Read once.
const Kernels& best_kernels();
// Those of the same processor that int8_winograd.h uses, or null: direct convolutions are as fast, or nothing is known.
const Kernels* winograd_kernels(const Kernels& kernels = best_kernels());
// All kernels that this processor can run, the fastest first. The last ones are plain C++.
std::vector<const Kernels*> usable_kernels();

}  // namespace retinasdk::int8
