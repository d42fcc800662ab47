// Uses the C++ core without Python: preprocesses an image, decodes head outputs, and suppresses overlapping boxes.
//
// Your inference runtime runs between preprocessing and decoding. This program needs no model: infer() writes made-up
// head outputs instead.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

#include "retinasdk/ops.h"

namespace {

const char* const kLabels[] = {"cat", "dog"};
constexpr int kClasses = 2;
constexpr int kImageHeight = 120, kImageWidth = 200;
constexpr int kInputHeight = 192, kInputWidth = 320;  // 1.6 times the image. Both strides divide it: no padding.

// One feature level with one anchor per cell, and its two head outputs for one image.
struct Heads {
  Heads(int stride_, float half_side)
      : stride(stride_),
        height(kInputHeight / stride_),
        width(kInputWidth / stride_),
        base_anchor{-half_side, -half_side, half_side, half_side},
        logits(static_cast<size_t>(kClasses) * height * width, -10.0f),
        deltas(static_cast<size_t>(4) * height * width, 0.0f) {}

  float& logit(int class_id, int row, int column) { return logits[(class_id * height + row) * width + column]; }
  float& delta(int which, int row, int column) { return deltas[(which * height + row) * width + column]; }
  retinasdk::HeadLevel view() const {
    const auto step = static_cast<float>(stride);
    return {logits.data(), deltas.data(), base_anchor, height, width, step, step};
  }

  int stride, height, width;
  float base_anchor[4];
  std::vector<float> logits, deltas;
};

// Replaces the inference runtime.
void infer(const std::vector<float>& /*input*/, Heads& fine, Heads& coarse) {
  // A cat.
  fine.logit(0, 3, 5) = 3.0f;
  // The same cat, detected in the next cell. The delta moves the box half its width to the left, onto the first box.
  // Therefore NMS suppresses it.
  fine.logit(0, 3, 6) = 2.0f;
  fine.delta(0, 3, 6) = -0.5f;
  // A dog in the same place. NMS keeps it, because its class is different.
  fine.logit(1, 3, 5) = 1.0f;
  // A dog that is twice as wide as its anchor. Its box is clipped at the right edge.
  coarse.logit(1, 5, 9) = 1.5f;
  coarse.delta(2, 5, 9) = std::log(2.0f);
}

void run() {
  std::vector<uint8_t> pixels(static_cast<size_t>(kImageHeight) * kImageWidth * 3, 128);  // Your image, RGB.
  const retinasdk::ImageView image{pixels.data(), kImageHeight, kImageWidth, kImageWidth * 3};
  const retinasdk::PreprocessOptions options{kInputHeight,
                                             kInputWidth,  // Resized.
                                             kInputHeight,
                                             kInputWidth,  // Padded.
                                             {123.675f, 116.28f, 103.53f},
                                             {58.395f, 57.12f, 57.375f},
                                             /*reverse_channels=*/false,
                                             /*antialias=*/false};
  std::vector<float> input(static_cast<size_t>(3) * kInputHeight * kInputWidth);
  retinasdk::preprocess(image, options, input.data());
  std::printf("input %d x %d, first value %.4f\n", kInputWidth, kInputHeight, input[0]);

  Heads fine(16, 16.0f), coarse(32, 32.0f);
  infer(input, fine, coarse);

  constexpr int kTopK = 100, kCapacity = 2 * kTopK, kMaxDetections = 50;
  std::vector<float> boxes(static_cast<size_t>(kCapacity) * 4), logits(kCapacity);
  std::vector<int32_t> class_ids(kCapacity), kept(kMaxDetections);
  int32_t count = 0, kept_count = 0;
  const retinasdk::Candidates candidates{boxes.data(), logits.data(), class_ids.data(), &count, kCapacity};
  const float clip_size[] = {kInputHeight, kInputWidth};
  // The logit threshold of 0 is a score of 0.5. dw and dh are at most ln(1000 / 16), as in torchvision and detectron2.
  const retinasdk::DecodeOptions decoding{1, 1, kClasses, 0.0f, kTopK, {{1.0f, 1.0f, 1.0f, 1.0f}, std::log(62.5f)}, {}};
  retinasdk::decode({fine.view(), coarse.view()}, decoding, clip_size, candidates);
  retinasdk::nms(1, candidates, {0.5f, kMaxDetections}, kept.data(), &kept_count);

  std::printf("%d candidates, %d detections\n", count, kept_count);
  const float ratio_y = static_cast<float>(kImageHeight) / kInputHeight;
  const float ratio_x = static_cast<float>(kImageWidth) / kInputWidth;
  for (int i = 0; i < kept_count; ++i) {
    const int32_t best = kept[i];
    const float* box = &boxes[static_cast<size_t>(best) * 4];
    const float score = 1.0f / (1.0f + std::exp(-logits[best]));
    std::printf("%s %.3f %.1f %.1f %.1f %.1f\n", kLabels[class_ids[best]], score, box[0] * ratio_x, box[1] * ratio_y,
                box[2] * ratio_x, box[3] * ratio_y);
  }
}

}  // namespace

int main() {
  try {
    run();
  } catch (const std::exception& error) {  // std::invalid_argument: the message gives the allowed range and the value.
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
