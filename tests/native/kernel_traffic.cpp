// Runs decode() and nms() on the emulated device and prints what each launch read and wrote, as JSON.
//
//   kernel_traffic [NAME=VALUE ...]
//     height=800 width=1344   size of the network input in pixels; the levels are P3 to P7
//     classes=91 anchors=9    of a cell
//     top_k=1000 detections=300
//     batch=1
//     passing=0.003           share of the logits of each level that pass a score of 0.05
//     half=0                  1: float16 heads
//     channels_last=0         1: the channels of a cell lie together, padded to a multiple of eight
//     iou=0.5                 limit of NMS; at a low one, few of the best candidates are kept
//     seed=1
//
// A kernel is given by its address in the symbol table of the program. tests/support/traffic_counts.py finds its name.
#include <cuda_fp16.h>
#include <cuda_on_cpu_traffic.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "retinasdk/ops_cuda.h"

namespace {

namespace cuda = retinasdk::cuda;

constexpr int kLevels = 5;
constexpr float kLogitThreshold = -2.9444389f;  // A score of 0.05.

struct Options {
  int height = 800, width = 1344, classes = 91, anchors = 9, top_k = 1000, detections = 300, batch = 1;
  double passing = 0.003, iou = 0.5;
  bool half = false, channels_last = false;
  unsigned seed = 1;
};

Options parse(int argc, char** argv) {
  Options options;
  const std::map<std::string, int*> integers{{"height", &options.height},   {"width", &options.width},
                                             {"classes", &options.classes}, {"anchors", &options.anchors},
                                             {"top_k", &options.top_k},     {"detections", &options.detections},
                                             {"batch", &options.batch}};
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = std::min(argument.find('='), argument.size() - 1);
    const std::string name = argument.substr(0, equals);
    const double value = std::atof(argument.c_str() + equals + 1);
    if (const auto found = integers.find(name); found != integers.end()) {
      *found->second = static_cast<int>(value);
    } else if (name == "passing") {
      options.passing = value;
    } else if (name == "iou") {
      options.iou = value;
    } else if (name == "half") {
      options.half = value != 0.0;
    } else if (name == "channels_last") {
      options.channels_last = value != 0.0;
    } else if (name == "seed") {
      options.seed = static_cast<unsigned>(value);
    } else {
      std::fprintf(stderr, "kernel_traffic: no option is called %s; see the top of kernel_traffic.cpp\n", name.c_str());
      std::exit(2);
    }
  }
  return options;
}

template <typename T>
T* allocate(size_t count) {
  return static_cast<T*>(cuda_on_cpu::allocate(count * sizeof(T)));
}

template <typename T>
T* to_device(const std::vector<T>& values) {
  T* data = allocate<T>(values.size());
  std::copy(values.begin(), values.end(), data);
  return data;
}

template <typename T>
T from_float(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
    return __float2half_rn(value);
  }
}

float to_float(float value) { return value; }
float to_float(__half value) { return __half2float(value); }

// Returns normally distributed values, moved so that the share `passing` of them is above the score threshold.
std::vector<float> make_logits(size_t count, double passing, std::mt19937_64& random) {
  std::vector<float> values(count);
  std::normal_distribution<float> normal;
  for (float& value : values) value = normal(random);
  std::vector<float> ordered = values;
  const auto failing = std::min(static_cast<size_t>(std::lround((1.0 - passing) * static_cast<double>(count))), count);
  std::nth_element(ordered.begin(), ordered.begin() + static_cast<std::ptrdiff_t>(failing == 0 ? 0 : failing - 1),
                   ordered.end());
  // The largest value that fails becomes the threshold, which does not pass. If none fails, the smallest lies above it.
  const float limit = failing == 0 ? ordered.front() - 0.01f : ordered[failing - 1];
  for (float& value : values) value += kLogitThreshold - limit;
  return values;
}

// The nine anchors of a cell that torchvision's RetinaNet uses, and further ones of the same kind.
std::vector<float> base_anchors(int anchors, float side) {
  std::vector<float> values;
  for (int i = 0; i < anchors; ++i) {
    const float ratio = std::exp2(static_cast<float>(i / 3 - 1));
    const float size = side * std::exp2(static_cast<float>(i % 3) / 3.0f);
    const float height = size * std::sqrt(ratio) / 2.0f, width = size / std::sqrt(ratio) / 2.0f;
    values.insert(values.end(), {-width, -height, width, height});
  }
  return values;
}

void print_counts(const char* name, const cuda_on_cpu::Counts& counts) {
  const std::pair<const char*, uint64_t> all[] = {{"read_bytes", counts.read_bytes},
                                                  {"written_bytes", counts.written_bytes},
                                                  {"logit_bytes", counts.watched_read_bytes},
                                                  {"shared_read_bytes", counts.shared_read_bytes},
                                                  {"shared_written_bytes", counts.shared_written_bytes},
                                                  {"atomics", counts.atomics},
                                                  {"shared_atomics", counts.shared_atomics},
                                                  {"barriers", counts.barriers},
                                                  {"collectives", counts.collectives}};
  std::printf("\"%s\": ", name);
  const char* separator = "{";
  for (const auto& [count, value] : all) {
    std::printf("%s\"%s\": %llu", std::exchange(separator, ", "), count, static_cast<unsigned long long>(value));
  }
  std::printf("}");
}

void print_launches(const char* name) {
  std::printf("\"%s\": [", name);
  const char* separator = "";
  for (const cuda_on_cpu::Launch& launch : cuda_on_cpu::take_launches()) {
    std::printf("%s\n  {\"kernel\": %llu, \"grid\": [%u, %u, %u], \"threads\": %u, ", std::exchange(separator, ","),
                static_cast<unsigned long long>(launch.kernel), launch.grid.x, launch.grid.y, launch.grid.z,
                launch.block.x * launch.block.y * launch.block.z);
    print_counts("total", launch.total);
    std::printf(", ");
    print_counts("busiest", launch.busiest);
    std::printf("}");
  }
  std::printf("],\n");
}

// The head outputs in device memory. The logits of all levels lie in one range.
template <typename T>
struct Heads {
  // Where the logits of a level are: `count` rows of `length` values, `step` values apart.
  struct Rows {
    const T* first;
    size_t count, length, step;
  };
  std::vector<cuda::DeviceLevel> levels;
  std::vector<Rows> logits;

  template <typename Body>
  void for_each_logit(Body body) const {
    for (const Rows& rows : logits) {
      for (size_t row = 0; row < rows.count; ++row) {
        for (size_t i = 0; i < rows.length; ++i) body(rows.first + row * rows.step + i);
      }
    }
  }
};

template <typename T>
Heads<T> make_heads(const Options& options, std::mt19937_64& random) {
  Heads<T> heads;
  const int logit_channels = options.anchors * options.classes, delta_channels = 4 * options.anchors;
  const auto from_cell_to_cell = [&](int channels) {
    return options.channels_last ? (channels + 7) / 8 * 8 : channels;
  };
  for (int l = 0; l < kLevels; ++l) {
    const int stride = 8 << l;
    const int height = (options.height + stride - 1) / stride, width = (options.width + stride - 1) / stride;
    const auto cells = static_cast<size_t>(options.batch * height * width);
    std::vector<T> deltas(cells * static_cast<size_t>(from_cell_to_cell(delta_channels)));
    std::normal_distribution<float> normal(0.0f, 0.2f);
    for (T& delta : deltas) delta = from_float<T>(normal(random));
    cuda::DeviceLevel level{nullptr,
                            to_device(deltas),
                            to_device(base_anchors(options.anchors, 4.0f * static_cast<float>(stride))),
                            height,
                            width,
                            static_cast<float>(stride),
                            static_cast<float>(stride)};
    if (options.channels_last) {
      level.logit_cell_stride = from_cell_to_cell(logit_channels);
      level.delta_cell_stride = from_cell_to_cell(delta_channels);
    }
    heads.levels.push_back(level);
  }
  for (cuda::DeviceLevel& level : heads.levels) {
    const auto cells = static_cast<size_t>(options.batch * level.height * level.width);
    const auto length = static_cast<size_t>(logit_channels),
               step = static_cast<size_t>(from_cell_to_cell(logit_channels));
    // Values behind the channels would pass if they were taken for logits.
    T* logits = to_device(std::vector<T>(cells * step, from_float<T>(1000.0f)));
    const std::vector<float> values = make_logits(cells * length, options.passing, random);
    for (size_t i = 0; i < values.size(); ++i) logits[i / length * step + i % length] = from_float<T>(values[i]);
    level.logits = logits;
    heads.logits.push_back({logits, cells, length, step});
  }
  return heads;
}

template <typename T>
void run(const Options& options) {
  std::mt19937_64 random(options.seed);
  const auto batch = static_cast<size_t>(options.batch), room = static_cast<size_t>(options.detections);
  const auto classes = static_cast<size_t>(options.classes);
  const Heads<T> heads = make_heads<T>(options, random);
  const std::vector<cuda::DeviceLevel>& levels = heads.levels;
  const auto& [last, last_count, last_length, last_step] = heads.logits.back();
  const auto watched = static_cast<size_t>(last + last_count * last_step - heads.logits.front().first);
  cuda_on_cpu::watch(heads.logits.front().first, watched * sizeof(T), sizeof(T));

  retinasdk::BoxCoder coder;
  coder.clamp_max = 4.135167f;
  std::vector<float> clip_sizes;
  for (size_t i = 0; i < batch; ++i) {
    clip_sizes.insert(clip_sizes.end(), {static_cast<float>(options.height), static_cast<float>(options.width)});
  }
  const cuda::DeviceDecodeOptions decode_options{options.batch,
                                                 options.anchors,
                                                 options.classes,
                                                 options.top_k,
                                                 coder,
                                                 options.half ? cuda::Scalar::kFloat16 : cuda::Scalar::kFloat32,
                                                 to_device(std::vector<float>{kLogitThreshold}),
                                                 to_device(std::vector<uint8_t>(classes, 1)),
                                                 to_device(clip_sizes)};
  const size_t capacity = levels.size() * static_cast<size_t>(options.top_k);
  const cuda::DeviceCandidates candidates{allocate<float>(4 * batch * capacity),
                                          allocate<float>(batch * capacity),
                                          allocate<int32_t>(batch * capacity),
                                          allocate<int32_t>(batch),
                                          allocate<int32_t>(batch),
                                          static_cast<int>(capacity)};
  const auto scratch = [](size_t size_bytes) { return cuda::Scratch{cuda_on_cpu::allocate(size_bytes), size_bytes}; };
  cuda::decode(levels, decode_options, candidates, scratch(cuda::decode_scratch_bytes(levels, decode_options)),
               nullptr);
  std::printf("{");
  print_launches("decode");

  const cuda::DeviceNmsOptions nms{static_cast<float>(options.iou), options.detections};
  const cuda::DeviceDetections detections{allocate<int32_t>(batch * room), allocate<int32_t>(batch),
                                          allocate<float>(4 * batch * room), allocate<float>(batch * room),
                                          allocate<int32_t>(batch * room)};
  cuda::nms(options.batch, candidates, nms, detections,
            scratch(cuda::nms_scratch_bytes(options.batch, static_cast<int>(capacity), nms)), nullptr);
  print_launches("nms");

  size_t logit_count = 0, passing = 0;
  std::map<uint32_t, size_t> reads;  // How many logits were read that often.
  heads.for_each_logit([&](const T* logit) {
    ++logit_count;
    if (to_float(*logit) > kLogitThreshold) ++passing;
    ++reads[*cuda_on_cpu::reads_of(logit)];
  });
  std::printf("\"reads_per_logit\": {");
  const char* separator = "";
  for (const auto& [times, count] : reads) {
    std::printf("%s\"%u\": %zu", std::exchange(separator, ", "), times, count);
  }
  std::printf("},\n\"logits\": %zu, \"logit_bytes\": %zu, \"passing\": %zu, \"candidates\": %d, \"detections\": %d}\n",
              logit_count, logit_count * sizeof(T), passing, candidates.counts[0], detections.counts[0]);
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  if (options.half) {
    run<__half>(options);
  } else {
    run<float>(options);
  }
}
