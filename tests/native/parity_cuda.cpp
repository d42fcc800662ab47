// Compares the CUDA kernels on the emulated device with the CPU functions, without Python: parity_cuda [seed [rounds]].
//
// Results must be equal bit by bit. Buffers are exactly as large as the headers require, so that the sanitizers detect
// any access beyond them.
#include <cuda_fp16.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "random_cases.h"
#include "retinasdk/ops_cuda.h"

namespace {

namespace cuda = retinasdk::cuda;

void check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "parity_cuda: this property does not hold: %s\n", what);
  std::exit(1);
}

template <typename T>
bool same_bytes(const std::vector<T>& ours, const std::vector<T>& theirs, size_t first, size_t count) {
  return count == 0 || std::memcmp(ours.data() + first, theirs.data() + first, count * sizeof(T)) == 0;
}

// A scratch buffer, filled with a pattern that no kernel may rely on.
class Scratch {
 public:
  explicit Scratch(size_t size_bytes) : data_(std::aligned_alloc(256, size_bytes)), size_bytes_(size_bytes) {
    std::memset(data_, 0xA5, size_bytes_);
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator cuda::Scratch() const { return {data_, size_bytes_}; }

 private:
  void* data_;
  size_t size_bytes_;
};

// The results of decode() and nms().
struct Found {
  std::vector<float> boxes, logits;
  std::vector<int32_t> class_ids, counts, kept, kept_counts, rescans;

  Found(size_t batch, size_t capacity, size_t room)
      : boxes(batch * capacity * 4),
        logits(batch * capacity),
        class_ids(batch * capacity),
        counts(batch),
        kept(batch * room, -1),
        kept_counts(batch),
        rescans(batch) {}
};

void check_same(const Found& ours, const Found& theirs, size_t capacity) {
  check(ours.counts == theirs.counts, "the counts of candidates are equal");
  for (size_t image = 0; image < ours.counts.size(); ++image) {
    const auto count = static_cast<size_t>(theirs.counts[image]);
    check(same_bytes(ours.boxes, theirs.boxes, 4 * image * capacity, 4 * count), "the boxes are equal");
    check(same_bytes(ours.logits, theirs.logits, image * capacity, count), "the logits are equal");
    check(same_bytes(ours.class_ids, theirs.class_ids, image * capacity, count), "the classes are equal");
  }
  check(ours.kept_counts == theirs.kept_counts, "the counts of kept candidates are equal");
  check(ours.kept == theirs.kept, "the kept candidates are equal");
}

Found run_cpu(const HeadsCase& made, size_t capacity) {
  Found found(static_cast<size_t>(made.options.batch), capacity, static_cast<size_t>(made.nms.max_detections));
  const retinasdk::Candidates candidates{found.boxes.data(), found.logits.data(), found.class_ids.data(),
                                         found.counts.data(), static_cast<int>(capacity)};
  retinasdk::decode(made.levels, made.options, made.clip_sizes.data(), candidates);
  retinasdk::nms(made.options.batch, candidates, made.nms, found.kept.data(), found.kept_counts.data());
  return found;
}

cuda::DeviceNmsOptions device_options(const retinasdk::NmsOptions& nms) {
  return {nms.iou_threshold,    nms.max_detections, nms.or_equal,
          nms.inclusive_pixels, nms.across_classes, nms.max_per_class};
}

// The results of soft NMS and fusion.
struct Scored {
  std::vector<float> boxes, scores;
  std::vector<int32_t> class_ids, counts, kept;

  Scored(size_t batch, size_t room)
      : boxes(4 * batch * room), scores(batch * room), class_ids(batch * room), counts(batch), kept(batch * room, -1) {}

  cuda::DeviceScored device() { return {boxes.data(), scores.data(), class_ids.data(), counts.data()}; }
};

void check_soft_nms(const HeadsCase& made, Found& found, size_t capacity) {
  const int batch = made.options.batch;
  const auto room = static_cast<size_t>(made.nms.max_detections);
  Scored theirs(static_cast<size_t>(batch), room), ours(static_cast<size_t>(batch), room);
  const retinasdk::Candidates candidates{found.boxes.data(), found.logits.data(), found.class_ids.data(),
                                         found.counts.data(), static_cast<int>(capacity)};
  retinasdk::soft_nms(batch, candidates,
                      {made.nms, made.decay, made.sigma, made.score_thresholds.data(), made.options.classes},
                      theirs.kept.data(), theirs.counts.data(), theirs.scores.data());
  const cuda::DeviceCandidates device{
      found.boxes.data(),        found.logits.data(), found.class_ids.data(), found.counts.data(), nullptr,
      static_cast<int>(capacity)};
  const cuda::DeviceSoftNmsOptions options{device_options(made.nms), made.decay, made.sigma,
                                           made.score_thresholds.data(), made.options.classes};
  const Scratch scratch(cuda::soft_nms_scratch_bytes(batch, static_cast<int>(capacity), options));
  cuda::soft_nms(batch, device, options, ours.kept.data(), ours.device(), scratch, nullptr);
  check(ours.counts == theirs.counts && ours.kept == theirs.kept, "soft NMS keeps the same");
  check(same_bytes(ours.scores, theirs.scores, 0, theirs.scores.size()), "scores decay equally");
}

void check_fusion(const HeadsCase& made, Found& found, size_t capacity) {
  const int batch = made.options.batch;
  const auto room = static_cast<size_t>(made.nms.max_detections);
  Scored theirs(static_cast<size_t>(batch), room), ours(static_cast<size_t>(batch), room);
  const retinasdk::Candidates candidates{found.boxes.data(), found.logits.data(), found.class_ids.data(),
                                         found.counts.data(), static_cast<int>(capacity)};
  const auto scale = retinasdk::ScoreScale::kLogit;
  retinasdk::fuse(batch, candidates, {made.nms, made.fused_score, scale, made.models, made.options.classes},
                  {theirs.boxes.data(), theirs.scores.data(), theirs.class_ids.data(), theirs.counts.data()});
  const cuda::DeviceCandidates device{
      found.boxes.data(),        found.logits.data(), found.class_ids.data(), found.counts.data(), nullptr,
      static_cast<int>(capacity)};
  const cuda::DeviceFusionOptions options{device_options(made.nms), made.fused_score, scale, made.models,
                                          made.options.classes};
  const Scratch scratch(cuda::fusion_scratch_bytes(batch, static_cast<int>(capacity), options));
  cuda::fuse(batch, device, options, ours.device(), scratch, nullptr);
  check(ours.counts == theirs.counts && ours.class_ids == theirs.class_ids, "fusion finds the same classes");
  check(same_bytes(ours.boxes, theirs.boxes, 0, theirs.boxes.size()), "fused boxes are equal");
  check(same_bytes(ours.scores, theirs.scores, 0, theirs.scores.size()), "fused scores are equal");
}

// Returns a head output with its channels last and `stride` values for each cell. Those behind the channels are
// `padding`. values: (images, channels, cells).
template <typename T>
std::vector<T> channels_last(const std::vector<T>& values, size_t channels, size_t cells, size_t stride, T padding) {
  std::vector<T> result(values.size() / channels * stride, padding);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t cell = i % cells, channel = i / cells % channels, image = i / cells / channels;
    result[(image * cells + cell) * stride + channel] = values[i];
  }
  return result;
}

// Runs decode() and nms() on the emulated device. logits and deltas: one vector per level, of the type `type`. With
// padding, the channels of the logits and the deltas come last, with so many values behind those of each cell.
template <typename T>
Found run_cuda(const HeadsCase& made, size_t capacity, cuda::Scalar type, std::vector<std::vector<T>> logits,
               std::vector<std::vector<T>> deltas, T highest, int padding = -1) {
  const auto batch = static_cast<size_t>(made.options.batch);
  const auto room = static_cast<size_t>(made.nms.max_detections);
  std::vector<cuda::DeviceLevel> levels;
  for (size_t l = 0; l < made.levels.size(); ++l) {
    const retinasdk::HeadLevel& level = made.levels[l];
    const auto cells = static_cast<size_t>(level.height * level.width);
    const int channels = made.options.anchors * made.options.classes;
    if (padding >= 0) {
      const auto stride = [&](int count) { return static_cast<size_t>(count + padding); };
      logits[l] = channels_last(logits[l], static_cast<size_t>(channels), cells, stride(channels), highest);
      const int count = 4 * made.options.anchors;
      deltas[l] = channels_last(deltas[l], static_cast<size_t>(count), cells, stride(count), highest);
    }
    levels.push_back({logits[l].data(), deltas[l].data(), level.base_anchors, level.height, level.width, level.stride_y,
                      level.stride_x, level.clip_height, level.clip_width});
    if (padding >= 0) {
      levels.back().logit_cell_stride = channels + padding;
      levels.back().delta_cell_stride = 4 * made.options.anchors + padding;
    }
  }
  std::vector<uint8_t> mask(static_cast<size_t>(made.options.classes), made.options.class_ids.empty() ? 1 : 0);
  for (const int32_t class_id : made.options.class_ids) mask[static_cast<size_t>(class_id)] = 1;
  const std::vector<float> threshold{made.options.logit_threshold};
  const cuda::DeviceDecodeOptions options{
      made.options.batch,        made.options.anchors,
      made.options.classes,      made.options.top_k,
      made.options.coder,        type,
      threshold.data(),          made.options.class_ids.empty() ? nullptr : mask.data(),
      made.clip_sizes.data(),    made.options.or_equal,
      made.options.drop_empty,   made.options.class_thresholds,
      made.options.ignored,      made.options.ignored_regions,
      made.options.top_k_anchors};
  Found found(batch, capacity, room);
  const cuda::DeviceCandidates candidates{found.boxes.data(),  found.logits.data(),  found.class_ids.data(),
                                          found.counts.data(), found.rescans.data(), static_cast<int>(capacity)};
  const Scratch decode_scratch(cuda::decode_scratch_bytes(levels, options));
  cuda::decode(levels, options, candidates, decode_scratch, nullptr);

  std::vector<float> boxes(batch * room * 4), kept_logits(batch * room);
  std::vector<int32_t> class_ids(batch * room);
  const cuda::DeviceNmsOptions nms = device_options(made.nms);
  const Scratch nms_scratch(cuda::nms_scratch_bytes(made.options.batch, static_cast<int>(capacity), nms));
  cuda::nms(made.options.batch, candidates, nms,
            {found.kept.data(), found.kept_counts.data(), boxes.data(), kept_logits.data(), class_ids.data()},
            nms_scratch, nullptr);
  for (size_t image = 0; image < batch; ++image) {
    for (size_t place = 0; place < static_cast<size_t>(found.kept_counts[image]); ++place) {
      const size_t source = image * capacity + static_cast<size_t>(found.kept[image * room + place]);
      const size_t target = image * room + place;
      check(std::memcmp(&boxes[4 * target], &found.boxes[4 * source], 4 * sizeof(float)) == 0 &&
                kept_logits[target] == found.logits[source] && class_ids[target] == found.class_ids[source],
            "kept candidates are copied");
    }
  }
  return found;
}

// Soft NMS and fusion are slow on the emulated device, so they run up to this number of candidates only.
constexpr size_t kManyCandidates = 300;

void check_heads(HeadsCase made, int padding) {
  const size_t capacity = static_cast<size_t>(retinasdk::candidate_limit(made.levels.size(), made.options));
  Found found = run_cpu(made, capacity);
  check_same(run_cuda(made, capacity, cuda::Scalar::kFloat32, made.logits, made.deltas, kInfinity), found, capacity);
  check_same(run_cuda(made, capacity, cuda::Scalar::kFloat32, made.logits, made.deltas, kInfinity, padding), found,
             capacity);
  if (capacity <= kManyCandidates) {
    check_soft_nms(made, found, capacity);
    check_fusion(made, found, capacity);
  }
  // Rounds the values to float16 first, so that both devices read the same values.
  const auto to_half = [](std::vector<std::vector<float>>& values) {
    std::vector<std::vector<__half>> halves;
    for (std::vector<float>& level : values) {
      halves.emplace_back();
      for (float& value : level) {
        halves.back().push_back(__float2half_rn(value));
        value = __half2float(halves.back().back());
      }
    }
    return halves;
  };
  const std::vector<std::vector<__half>> logits = to_half(made.logits);
  const std::vector<std::vector<__half>> deltas = to_half(made.deltas);
  const Found rounded = run_cpu(made, capacity);
  const __half highest = __float2half_rn(kInfinity);
  check_same(run_cuda(made, capacity, cuda::Scalar::kFloat16, logits, deltas, highest), rounded, capacity);
  check_same(run_cuda(made, capacity, cuda::Scalar::kFloat16, logits, deltas, highest, padding), rounded, capacity);
}

// Decodes a level with more candidates than the buffer of decode() holds, so that it reads the logits again.
void check_crowded_level(Random& random) {
  HeadsCase made{};
  made.options.batch = 1;
  made.options.anchors = 9;
  made.options.classes = 5;
  made.options.logit_threshold = -kInfinity;
  made.options.top_k = 1000;
  made.nms = {0.5f, 100, false};
  made.clip_sizes = {400.0f, 360.0f};
  const int height = 50, width = 45;
  const size_t cells = size_t{50} * 45;
  made.base_anchors.push_back({});
  for (int i = 0; i < 9; ++i) {
    for (const float side : {-4.0f, -5.0f, 4.0f, 5.0f})
      made.base_anchors[0].push_back(side * static_cast<float>(i + 1));
  }
  made.logits.emplace_back(45 * cells);
  made.deltas.emplace_back(36 * cells);
  // The better logits come later, so the best ones of a segment change all the time.
  for (size_t i = 0; i < made.logits[0].size(); ++i) {
    made.logits[0][i] = random.real(-3.0f, 3.0f) + 1e-4f * static_cast<float>(i);
  }
  for (float& value : made.deltas[0]) value = random.real(-1.0f, 1.0f);
  made.levels.push_back(
      {made.logits[0].data(), made.deltas[0].data(), made.base_anchors[0].data(), height, width, 8.0f, 8.0f});
  const Found theirs = run_cpu(made, 1000);
  const Found ours = run_cuda(made, 1000, cuda::Scalar::kFloat32, made.logits, made.deltas, kInfinity);
  check(ours.rescans[0] == 1, "the level has more candidates than the buffer");
  check_same(ours, theirs, 1000);
}

// Compares nms() or rotated_nms() on many candidates.
void check_nms(CandidatesCase made) {
  const auto batch = static_cast<size_t>(made.batch), capacity = static_cast<size_t>(made.capacity);
  const auto room = static_cast<size_t>(made.nms.max_detections);
  const size_t values = made.boxes.size() / (batch * capacity);
  const retinasdk::Candidates host{made.boxes.data(), made.logits.data(), made.class_ids.data(), made.counts.data(),
                                   made.capacity};
  std::vector<int32_t> wanted(batch * room, -1), wanted_counts(batch);
  if (made.rotated) {
    retinasdk::rotated_nms(made.batch, host, made.nms, made.shares_angle, wanted.data(), wanted_counts.data());
  } else {
    retinasdk::nms(made.batch, host, made.nms, wanted.data(), wanted_counts.data());
  }
  const cuda::DeviceCandidates device{made.boxes.data(), made.logits.data(), made.class_ids.data(), made.counts.data(),
                                      nullptr,           made.capacity};
  std::vector<float> boxes(batch * room * values), logits(batch * room);
  std::vector<int32_t> class_ids(batch * room), kept(batch * room), counts(batch);
  const cuda::DeviceDetections detections{kept.data(), counts.data(), boxes.data(), logits.data(), class_ids.data()};
  const cuda::DeviceNmsOptions options = device_options(made.nms);
  const Scratch scratch(cuda::nms_scratch_bytes(made.batch, made.capacity, options));
  if (made.rotated) {
    cuda::rotated_nms(made.batch, device, options, made.shares_angle, detections, scratch, nullptr);
  } else {
    cuda::nms(made.batch, device, options, detections, scratch, nullptr);
  }
  check(counts == wanted_counts && kept == wanted, "NMS of many candidates keeps the same");
  for (size_t image = 0; image < batch; ++image) {
    for (size_t place = 0; place < static_cast<size_t>(counts[image]); ++place) {
      const size_t target = image * room + place;
      const size_t source = image * capacity + static_cast<size_t>(kept[target]);
      check(std::memcmp(&boxes[values * target], &made.boxes[values * source], values * sizeof(float)) == 0 &&
                logits[target] == made.logits[source] && class_ids[target] == made.class_ids[source],
            "NMS of many candidates copies the kept ones");
    }
  }
}

// Compares the preprocessing of an image with that of the same image in RGB on the CPU.
void check_image(const cuda::DeviceImage& image, const retinasdk::ImageView& rgb,
                 const retinasdk::PreprocessOptions& options) {
  const size_t values = size_t{3} * static_cast<size_t>(options.padded_height * options.padded_width);
  std::vector<float> theirs(values);
  retinasdk::preprocess(rgb, options, theirs.data());
  cuda::DevicePreprocessOptions device{options.resized_height,
                                       options.resized_width,
                                       options.padded_height,
                                       options.padded_width,
                                       {},
                                       {},
                                       options.reverse_channels,
                                       options.antialias,
                                       cuda::Scalar::kFloat32,
                                       options.source_step,
                                       options.eight_bit};
  std::memcpy(device.mean, options.mean, sizeof device.mean);
  std::memcpy(device.std, options.std, sizeof device.std);
  const Scratch scratch(cuda::preprocess_scratch_bytes(image, device));
  std::vector<float> ours(values);
  cuda::preprocess(image, device, ours.data(), scratch, nullptr);
  check(same_bytes(ours, theirs, 0, values), "the preprocessed images are equal");
  device.output = cuda::Scalar::kFloat16;
  std::vector<__half> halves(values);
  cuda::preprocess(image, device, halves.data(), scratch, nullptr);
  for (size_t i = 0; i < values; ++i) {
    check(__half2float(halves[i]) == __half2float(__float2half_rn(theirs[i])),
          "the preprocessed float16 images are equal");
  }
}

void check_preprocess(const PreprocessCase& made) {
  check_image({retinasdk::PixelFormat::kInterleaved, made.view.pixels, made.view.row_bytes, nullptr, 0,
               made.view.height, made.view.width},
              made.view, made.options);
}

void check_camera_frame(Random& random) {
  const int height = 2 * random.integer(1, 20), width = 2 * random.integer(1, 20);
  const bool is_wide = random.chance(2);
  const std::ptrdiff_t row = is_wide ? 2 * width : width;
  const std::ptrdiff_t row_bytes = row + 2 * random.integer(0, 4), chroma_row_bytes = row + 2 * random.integer(0, 4);
  // The last row ends with its last sample.
  std::vector<uint8_t> luma(static_cast<size_t>(row_bytes * (height - 1) + row));
  std::vector<uint8_t> chroma(static_cast<size_t>(chroma_row_bytes * (height / 2 - 1) + row));
  for (auto* plane : {&luma, &chroma}) {
    for (uint8_t& sample : *plane) sample = static_cast<uint8_t>(random.integer(0, 255));
  }
  const retinasdk::YuvView frame{is_wide ? retinasdk::PixelFormat::kP010 : retinasdk::PixelFormat::kNv12,
                                 luma.data(),
                                 row_bytes,
                                 chroma.data(),
                                 chroma_row_bytes,
                                 height,
                                 width,
                                 static_cast<retinasdk::ColorMatrix>(random.integer(0, 2)),
                                 random.chance(2)};
  std::vector<uint8_t> rgb(static_cast<size_t>(3 * height * width));
  retinasdk::yuv_to_rgb(frame, rgb.data());
  const cuda::DeviceImage image{frame.format, luma.data(), row_bytes,    chroma.data(),   chroma_row_bytes,
                                height,       width,       frame.matrix, frame.full_range};
  const PreprocessCase made = make_preprocess(random, 1, 1, random.integer(1, 40), random.integer(1, 40));
  check_image(image, {rgb.data(), height, width, 3 * width}, made.options);
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 40;
  Random random(seed);
  check_crowded_level(random);
  for (int round = 0; round < rounds; ++round) {
    check_preprocess(make_preprocess(random, random.integer(1, 40), random.integer(1, 40), random.integer(1, 40),
                                     random.integer(1, 40)));
    check_camera_frame(random);
    check_heads(make_heads(random), random.integer(0, 9));
    check_nms(make_candidates(random));
  }
  std::printf("parity_cuda: %d rounds with seed %llu: all results are equal\n", rounds,
              static_cast<unsigned long long>(seed));
}
