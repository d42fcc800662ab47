// Compares decode() and the suppressions on the emulated device with those on the CPU: equal bit by bit.
#pragma once

#include <cuda_fp16.h>

#include <cmath>

#include "parity_support.h"

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

inline void check_same(const Found& ours, const Found& theirs, size_t capacity) {
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

inline Found run_cpu(const HeadsCase& made, size_t capacity) {
  Found found(static_cast<size_t>(made.options.batch), capacity, static_cast<size_t>(made.nms.max_detections));
  const retinasdk::Candidates candidates{found.boxes.data(), found.logits.data(), found.class_ids.data(),
                                         found.counts.data(), static_cast<int>(capacity)};
  retinasdk::decode(made.levels, made.options, made.clip_sizes.data(), candidates);
  retinasdk::nms(made.options.batch, candidates, made.nms, found.kept.data(), found.kept_counts.data());
  return found;
}

inline cuda::DeviceNmsOptions device_options(const retinasdk::NmsOptions& nms) {
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

// The same candidates on the device, which reads the memory of the host.
inline cuda::DeviceCandidates on_device(const retinasdk::Candidates& candidates) {
  return {candidates.boxes, candidates.logits, candidates.class_ids, candidates.counts, nullptr, candidates.capacity};
}

inline void check_soft_nms(int batch, const retinasdk::Candidates& candidates,
                           const retinasdk::SoftNmsOptions& options) {
  const auto room = static_cast<size_t>(options.nms.max_detections);
  Scored theirs(static_cast<size_t>(batch), room), ours(static_cast<size_t>(batch), room);
  retinasdk::soft_nms(batch, candidates, options, theirs.kept.data(), theirs.counts.data(), theirs.scores.data());
  const cuda::DeviceSoftNmsOptions device{device_options(options.nms), options.decay, options.sigma,
                                          options.score_thresholds, options.classes};
  const Scratch scratch(cuda::soft_nms_scratch_bytes(batch, candidates.capacity, device));
  cuda::soft_nms(batch, on_device(candidates), device, ours.kept.data(), ours.device(), scratch, nullptr);
  check(ours.counts == theirs.counts && ours.kept == theirs.kept, "soft NMS keeps the same");
  for (size_t image = 0; image < theirs.counts.size(); ++image) {
    check(same_bytes(ours.scores, theirs.scores, image * room, static_cast<size_t>(theirs.counts[image])),
          "scores decay equally");
  }
}

inline void check_fusion(int batch, const retinasdk::Candidates& candidates, const retinasdk::FusionOptions& options) {
  const auto room = static_cast<size_t>(options.nms.max_detections);
  Scored theirs(static_cast<size_t>(batch), room), ours(static_cast<size_t>(batch), room);
  retinasdk::fuse(batch, candidates, options,
                  {theirs.boxes.data(), theirs.scores.data(), theirs.class_ids.data(), theirs.counts.data()});
  const cuda::DeviceFusionOptions device{device_options(options.nms), options.score, options.scale, options.models,
                                         options.classes};
  const Scratch scratch(cuda::fusion_scratch_bytes(batch, candidates.capacity, device));
  cuda::fuse(batch, on_device(candidates), device, ours.device(), scratch, nullptr);
  check(ours.counts == theirs.counts, "fusion finds as many boxes");
  for (size_t image = 0; image < theirs.counts.size(); ++image) {
    const auto count = static_cast<size_t>(theirs.counts[image]);
    check(same_bytes(ours.class_ids, theirs.class_ids, image * room, count), "fusion finds the same classes");
    check(same_bytes(ours.boxes, theirs.boxes, 4 * image * room, 4 * count), "fused boxes are equal");
    check(same_bytes(ours.scores, theirs.scores, image * room, count), "fused scores are equal");
  }
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
inline Found run_cuda(const HeadsCase& made, size_t capacity, cuda::Scalar type, std::vector<std::vector<T>> logits,
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

// Rounds the values to float16, so that both devices read the same values.
inline std::vector<std::vector<__half>> to_half(std::vector<std::vector<float>>& values) {
  std::vector<std::vector<__half>> halves;
  for (std::vector<float>& level : values) {
    halves.emplace_back();
    for (float& value : level) {
      halves.back().push_back(__float2half_rn(value));
      value = __half2float(halves.back().back());
    }
  }
  return halves;
}

// Compares decode() and nms(). half: whether the heads are rounded to float16. padding: as in run_cuda().
inline void check_decoded(HeadsCase& made, bool half, int padding) {
  const size_t capacity = static_cast<size_t>(retinasdk::candidate_limit(made.levels.size(), made.options));
  if (half) {
    const std::vector<std::vector<__half>> logits = to_half(made.logits), deltas = to_half(made.deltas);
    const __half highest = __float2half_rn(kInfinity);
    check_same(run_cuda(made, capacity, cuda::Scalar::kFloat16, logits, deltas, highest, padding),
               run_cpu(made, capacity), capacity);
  } else {
    check_same(run_cuda(made, capacity, cuda::Scalar::kFloat32, made.logits, made.deltas, kInfinity, padding),
               run_cpu(made, capacity), capacity);
  }
}

// Compares soft NMS and fusion of what decode() finds, unless it may be much.
inline void check_overlap_rules(const HeadsCase& made) {
  const size_t capacity = static_cast<size_t>(retinasdk::candidate_limit(made.levels.size(), made.options));
  if (capacity > kManyCandidates) return;
  Found found = run_cpu(made, capacity);
  const retinasdk::Candidates candidates{found.boxes.data(), found.logits.data(), found.class_ids.data(),
                                         found.counts.data(), static_cast<int>(capacity)};
  check_soft_nms(made.options.batch, candidates, made.rules.soft(made.nms));
  check_fusion(made.options.batch, candidates, made.rules.fusion(made.nms));
}

inline void check_heads(HeadsCase&& made, int padding) {
  check_overlap_rules(made);
  for (const bool half : {false, true}) {
    check_decoded(made, half, -1);
    check_decoded(made, half, padding);
  }
}

// Decodes a level with more candidates than the buffer of decode() holds, so that it reads the logits again.
inline void check_crowded_level(Random& random, float highest) {
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
  for (float& value : made.logits[0]) value = random.real(1.001f, highest);
  for (float& value : made.deltas[0]) value = random.real(-1.0f, 1.0f);
  made.levels.push_back(
      {made.logits[0].data(), made.deltas[0].data(), made.base_anchors[0].data(), height, width, 8.0f, 8.0f});
  const Found theirs = run_cpu(made, 1000);
  const Found ours = run_cuda(made, 1000, cuda::Scalar::kFloat32, made.logits, made.deltas, kInfinity);
  check(ours.rescans[0] == 1, "the level has more candidates than the buffer");
  check_same(ours, theirs, 1000);
}

// Compares nms() or rotated_nms() on many candidates.
inline void check_nms(CandidatesCase& made) {
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
  const cuda::DeviceCandidates device = on_device(host);
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

// Compares decode() of rotated boxes, in both layouts.
inline void check_rotated(const RotatedCase& made, int padding) {
  const auto room = static_cast<size_t>(made.options.top_k), values = size_t{retinasdk::kRotatedValues};
  retinasdk::DecodeOptions host = made.options;
  host.rotated = &made.coder;
  Found wanted(1, room, 1);
  wanted.boxes.resize(room * values);
  const retinasdk::Candidates theirs{wanted.boxes.data(), wanted.logits.data(), wanted.class_ids.data(),
                                     wanted.counts.data(), made.options.top_k};
  retinasdk::decode({made.level()}, host, made.clip_sizes, theirs);
  const auto count = static_cast<size_t>(wanted.counts[0]);
  const std::vector<uint8_t> mask(static_cast<size_t>(made.options.classes), 1);
  cuda::DeviceDecodeOptions options{};
  options.batch = 1;
  options.anchors = made.options.anchors;
  options.classes = made.options.classes;
  options.top_k = made.options.top_k;
  options.logit_threshold = &made.options.logit_threshold;
  options.class_mask = mask.data();
  options.clip_sizes = made.clip_sizes;
  options.rotated = &made.coder;
  const int channels = options.anchors * options.classes;
  const int numbers = options.anchors * retinasdk::deltas_of(made.coder.coding);
  const auto cells = static_cast<size_t>(made.height * made.width);
  const auto last = [&](const std::vector<float>& head, int width) {
    return channels_last(head, static_cast<size_t>(width), cells, static_cast<size_t>(width + padding), kInfinity);
  };
  const std::vector<float> logits = last(made.logits, channels), deltas = last(made.deltas, numbers);
  for (const bool channels_come_last : {false, true}) {
    cuda::DeviceLevel level{
        made.logits.data(), made.deltas.data(), made.base_anchors.data(), made.height, made.width, 8.0f, 8.0f};
    if (channels_come_last) {
      level.logits = logits.data();
      level.deltas = deltas.data();
      level.logit_cell_stride = channels + padding;
      level.delta_cell_stride = numbers + padding;
    }
    Found found(1, room, 1);
    found.boxes.resize(room * values);
    const cuda::DeviceCandidates ours{
        found.boxes.data(), found.logits.data(), found.class_ids.data(), found.counts.data(), nullptr,
        made.options.top_k};
    const Scratch scratch(cuda::decode_scratch_bytes({level}, options));
    cuda::decode({level}, options, ours, scratch, nullptr);
    check(found.counts == wanted.counts, "as many rotated boxes are decoded");
    check(same_bytes(found.boxes, wanted.boxes, 0, count * values), "rotated boxes are equal");
    check(same_bytes(found.logits, wanted.logits, 0, count) && same_bytes(found.class_ids, wanted.class_ids, 0, count),
          "logits and classes of rotated boxes are equal");
  }
}
