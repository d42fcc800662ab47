// Runs decode() and nms() on the emulated device and prints what each launch read and wrote, as JSON.
//
//   kernel_traffic [NAME=VALUE ...]
//     height=800 width=1344   size of the network input in pixels; the levels are P3 to P7
//     classes=91 anchors=9    of a cell
//     top_k=1000 detections=300
//     batch=1
//     passing=0.003           share of the logits of each level that pass a score of 0.05
//     half=0                  1: float16 heads
//     seed=1
//
// Kernels have their address in the program's symbol table; tests/support/kernel_traffic.py finds the names.
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
  double passing = 0.003;
  bool half = false;
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
    } else if (name == "half") {
      options.half = value != 0.0;
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

// Fills logits with normally distributed values, moved so that the share `passing` of them is above the threshold.
template <typename T>
void fill_logits(T* logits, size_t count, double passing, std::mt19937_64& random) {
  std::vector<float> values(count);
  std::normal_distribution<float> normal;
  for (float& value : values) value = normal(random);
  std::vector<float> ordered = values;
  const auto failing = std::min(static_cast<size_t>(std::lround((1.0 - passing) * static_cast<double>(count))), count);
  std::nth_element(ordered.begin(), ordered.begin() + static_cast<std::ptrdiff_t>(failing == 0 ? 0 : failing - 1),
                   ordered.end());
  // The largest value that fails becomes the threshold, which does not pass. If none fails, the smallest lies above it.
  const float limit = failing == 0 ? ordered.front() - 0.01f : ordered[failing - 1];
  for (size_t i = 0; i < count; ++i) logits[i] = from_float<T>(values[i] - limit + kLogitThreshold);
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

template <typename T>
void run(const Options& options) {
  std::mt19937_64 random(options.seed);
  const auto batch = static_cast<size_t>(options.batch), room = static_cast<size_t>(options.detections);
  const auto anchors = static_cast<size_t>(options.anchors), classes = static_cast<size_t>(options.classes);
  std::vector<cuda::DeviceLevel> levels;
  std::vector<size_t> sizes;  // Logits of each level.
  for (int l = 0; l < kLevels; ++l) {
    const int stride = 8 << l;
    const int height = (options.height + stride - 1) / stride, width = (options.width + stride - 1) / stride;
    const size_t cells = batch * anchors * static_cast<size_t>(height) * static_cast<size_t>(width);
    sizes.push_back(cells * classes);
    std::vector<T> deltas(4 * cells);
    std::normal_distribution<float> normal(0.0f, 0.2f);
    for (T& delta : deltas) delta = from_float<T>(normal(random));
    levels.push_back({nullptr, to_device(deltas),
                      to_device(base_anchors(options.anchors, 4.0f * static_cast<float>(stride))), height, width,
                      static_cast<float>(stride), static_cast<float>(stride)});
  }
  size_t logit_count = 0, passing = 0, span = 0;
  const T* first = nullptr;
  for (size_t l = 0; l < levels.size(); ++l) {  // The logits of all levels lie in one range, which is watched.
    T* logits = allocate<T>(sizes[l]);
    fill_logits(logits, sizes[l], options.passing, random);
    levels[l].logits = logits;
    if (first == nullptr) first = logits;
    span = static_cast<size_t>(logits - first) + sizes[l];
    logit_count += sizes[l];
    for (size_t i = 0; i < sizes[l]; ++i) {
      float value;
      if constexpr (std::is_same_v<T, float>)
        value = logits[i];
      else
        value = __half2float(logits[i]);
      passing += value > kLogitThreshold ? 1 : 0;
    }
  }
  cuda_on_cpu::watch(first, span * sizeof(T), sizeof(T));

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

  const cuda::DeviceNmsOptions nms{0.5f, options.detections};
  const cuda::DeviceDetections detections{allocate<int32_t>(batch * room), allocate<int32_t>(batch),
                                          allocate<float>(4 * batch * room), allocate<float>(batch * room),
                                          allocate<int32_t>(batch * room)};
  cuda::nms(options.batch, candidates, nms, detections,
            scratch(cuda::nms_scratch_bytes(options.batch, static_cast<int>(capacity), nms)), nullptr);
  print_launches("nms");

  std::map<uint32_t, size_t> reads;  // How many logits were read that often.
  for (size_t l = 0; l < levels.size(); ++l) {
    const uint32_t* counts = cuda_on_cpu::reads_of(levels[l].logits);
    for (size_t i = 0; i < sizes[l]; ++i) ++reads[counts[i]];
  }
  std::printf("\"reads_per_logit\": {");
  const char* separator = "";
  for (const auto& [times, logits] : reads) {
    std::printf("%s\"%u\": %zu", std::exchange(separator, ", "), times, logits);
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
