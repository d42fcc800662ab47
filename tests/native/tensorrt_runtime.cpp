// The TensorRT backend of libretinasdk over the emulated kernels and the stand-in for libnvinfer
// (tests/support/tensorrt_on_cpu): frames, graphs, threads, batches and refusals, under the sanitizers.
//
// The engines hold random heads for random images. What the backend returns must be, bit for bit, what the operations
// of ops.h return for these heads on the CPU.
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "random.h"
#include "retinasdk/ops.h"
#include "runtime/errors.h"
#include "runtime/sha256.h"
#include "runtime/tensorrt/tensorrt_backend.h"
#include "runtime/tensorrt/versions.h"

extern "C" void cuda_on_cpu_fail(long first, long last);
extern "C" long cuda_on_cpu_calls();
extern "C" long cuda_on_cpu_live();

namespace {

using namespace retinasdk;
using namespace retinasdk::runtime;
using nlohmann::json;

constexpr int kClasses = 3, kTopK = 50, kRoom = 20;
constexpr float kIou = 0.5f, kScore = 0.3f;

struct Image {
  int height, width;
  std::vector<uint8_t> pixels;

  ImageView view() const { return {pixels.data(), height, width, std::ptrdiff_t{3} * width}; }
};

int padded(int side) { return (side + 31) / 32 * 32; }

Transform transform_of(const Image& image) {
  Transform transform;
  transform.original = transform.resized = {image.height, image.width};
  transform.padded = {padded(image.height), padded(image.width)};
  return transform;
}

Image random_image(Random& random, int height, int width) {
  Image image{height, width, {}};
  for (int i = 0; i < height * width * 3; ++i) image.pixels.push_back(static_cast<uint8_t>(random.integer(0, 255)));
  return image;
}

json level_json(const std::string& name, float size) {
  return {{"logits", "logits_" + name},
          {"deltas", "deltas_" + name},
          {"base_anchors", {{-size, -size, size, size}}},
          {"stride", {size, size}}};
}

const float kSizes[] = {8.0f, 16.0f};  // The strides of the levels, and half the sides of their anchors.

json spec_json() {
  return {{"format", 1},
          {"name", "random"},
          {"flavour", "retinasdk"},
          {"labels", {"a", "b", "c"}},
          {"levels", {level_json("p3", kSizes[0]), level_json("p4", kSizes[1])}},
          {"resize",
           {{"rule", "native"},
            {"size", {4096}},
            {"rounding", "floor"},
            {"antialias", false},
            {"source_step", "sides"},
            {"eight_bit", false}}},
          {"normalise", {{"mean", {0.0, 0.0, 0.0}}, {"std", {255.0, 255.0, 255.0}}, {"channels", "RGB"}}},
          {"pad_multiple", 32},
          {"input", "images"},
          {"top_k", kTopK},
          {"nms_iou_threshold", kIou},
          {"max_detections", kRoom}};
}

// An engine in the making, and what it must find.
class Engine {
 public:
  explicit Engine(Random& random) : random_(random) {}

  // Records random heads for one batch. Returns what is to be found in each image.
  std::vector<Kept> add(const std::vector<Image>& images) {
    const int batch = static_cast<int>(images.size());
    const int height = padded(images[0].height), width = padded(images[0].width);
    std::vector<float> input;
    std::vector<float> clip_sizes;
    for (const Image& image : images) {
      std::vector<float> one(3 * static_cast<size_t>(height) * static_cast<size_t>(width));
      PreprocessOptions options{};
      options.resized_height = image.height;
      options.resized_width = image.width;
      options.padded_height = height;
      options.padded_width = width;
      for (float& std : options.std) std = 255.0f;
      preprocess(image.view(), options, one.data());
      input.insert(input.end(), one.begin(), one.end());
      clip_sizes.push_back(static_cast<float>(image.height));
      clip_sizes.push_back(static_cast<float>(image.width));
    }
    const std::string_view bytes{reinterpret_cast<const char*>(input.data()), input.size() * sizeof(float)};
    json entry{{"shape", {batch, 3, height, width}}, {"sha256", sha256(bytes)}, {"outputs", json::array()}};
    std::vector<std::vector<float>> outputs;
    for (const int channels : {kClasses, 4}) {
      for (const float size : kSizes) {
        const int rows = height / static_cast<int>(size), columns = width / static_cast<int>(size);
        std::vector<float> values;
        for (int i = 0; i < batch * channels * rows * columns; ++i) {
          values.push_back(channels == 4 ? random_.real(-1.0f, 1.0f) : random_.real(-6.0f, 2.0f));
        }
        entry["outputs"].push_back({{"shape", {batch, channels, rows, columns}}, {"offset", values_.size()}});
        values_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
        outputs.push_back(std::move(values));
      }
    }
    entries_.push_back(entry);
    return expected(outputs, clip_sizes, batch, height, width);
  }

  // Writes the engine and its JSON.
  void save(const std::string& path, const json& changes = json::object(), int smallest_batch = 1) const {
    const json smallest = {smallest_batch, 3, 1, 1}, largest = {4, 3, 512, 512};
    const json described{{"smallest", smallest},
                         {"largest", largest},
                         {"dtypes", json::object()},
                         {"formats", json::object()},
                         {"gap", 0},
                         {"inputs", {"images"}},
                         {"outputs", {"logits_p3", "logits_p4", "deltas_p3", "deltas_p4"}},
                         {"entries", entries_}};
    const std::string text = described.dump();
    const auto size = static_cast<uint32_t>(text.size());
    std::string plan = NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR == 5 ? "ptrt" : "ftrt";
    plan += std::string(20, '\0');
    for (const int number : {NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, NV_TENSORRT_PATCH, 0}) {
      plan += static_cast<char>(number);
    }
    plan.append(reinterpret_cast<const char*>(&size), sizeof size);
    plan += text + values_;
    std::ofstream(path, std::ios::binary) << plan;
    json info{{"format", 1},
              {"spec", spec_json()},
              {"fingerprint",
               {{"tensorrt", "tensorrt"}, {"tensorrt_version", trt::header_version()}, {"compute_capability", {8, 7}}}},
              {"profile", {{"min", smallest}, {"opt", smallest}, {"max", largest}}},
              {"precision", "fp32"},
              {"build_seconds", 0.0},
              {"size_bytes", plan.size()},
              {"engine_sha256", sha256(plan)}};
    info.merge_patch(changes);
    std::ofstream(path + ".json") << info;
  }

 private:
  static std::vector<Kept> expected(const std::vector<std::vector<float>>& outputs,
                                    const std::vector<float>& clip_sizes, int batch, int height, int width) {
    std::vector<HeadLevel> levels;
    float anchors[2][4];
    for (size_t i = 0; i < 2; ++i) {
      const float size = kSizes[i];
      const float corners[4] = {-size, -size, size, size};
      std::memcpy(anchors[i], corners, sizeof corners);
      levels.push_back({outputs[i].data(), outputs[i + 2].data(), anchors[i], height / static_cast<int>(size),
                        width / static_cast<int>(size), size, size});
    }
    DecodeOptions options{};
    options.batch = batch;
    options.anchors = 1;
    options.classes = kClasses;
    options.logit_threshold = static_cast<float>(logit(double{kScore}));
    options.top_k = kTopK;
    options.coder.clamp_max = std::log(1000.0f / 16);
    const auto capacity = static_cast<size_t>(2 * kTopK), images = static_cast<size_t>(batch);
    std::vector<float> boxes(images * capacity * 4), logits(images * capacity);
    std::vector<int32_t> class_ids(images * capacity), counts(images), kept(images * kRoom), kept_counts(images);
    const Candidates candidates{boxes.data(), logits.data(), class_ids.data(), counts.data(), 2 * kTopK};
    decode(levels, options, clip_sizes.data(), candidates);
    nms(batch, candidates, {kIou, kRoom}, kept.data(), kept_counts.data());
    std::vector<Kept> found(images);
    for (size_t image = 0; image < images; ++image) {
      for (int i = 0; i < kept_counts[image]; ++i) {
        const size_t at = image * capacity + static_cast<size_t>(kept[image * kRoom + static_cast<size_t>(i)]);
        found[image].boxes.insert(found[image].boxes.end(), &boxes[4 * at], &boxes[4 * at] + 4);
        found[image].scores.push_back(sigmoid(logits[at]));
        found[image].class_ids.push_back(class_ids[at]);
      }
    }
    return found;
  }

  Random& random_;
  json entries_ = json::array();
  std::string values_;
};

std::unique_ptr<Backend> open_engine(const std::string& path) {
  std::string warning;
  return open_tensorrt(path, nullptr, {}, warning);
}

struct Batch {
  std::vector<Image> images;
  std::vector<Kept> expected;
};

void check_detects(Backend& backend, const Batch& batch) {
  std::vector<ImageView> views;
  std::vector<Transform> transforms;
  for (const Image& image : batch.images) {
    views.push_back(image.view());
    transforms.push_back(transform_of(image));
  }
  DetectOptions options;
  options.score_thresholds = {kScore};
  const std::vector<Kept> found = backend.detect(views, transforms, options);
  check(found.size() == batch.expected.size(), "there is one result for each image");
  for (size_t i = 0; i < found.size(); ++i) {
    check(!found[i].scores.empty(), "something is found");
    check(found[i].boxes == batch.expected[i].boxes && found[i].scores == batch.expected[i].scores &&
              found[i].class_ids == batch.expected[i].class_ids,
          "the GPU path finds what the CPU finds, bit for bit");
  }
}

template <typename Expected>
void check_throws(const std::string& words, const std::function<void()>& call) {
  try {
    call();
  } catch (const Expected& error) {
    check(std::string(error.what()).find(words) != std::string::npos, error.what());
    return;
  }
  check(false, words.c_str());
}

void refuse(const char* what) { setenv("TENSORRT_ON_CPU_REFUSE", what, 1); }

// Frames of several sizes, each often enough for the first, the recorded and the replayed run, and with new pixels.
void test_frames(const std::string& path, const std::vector<Batch>& batches, size_t calls) {
  const auto backend = open_engine(path);
  for (size_t round = 0; round < calls / 2; ++round) {
    for (const Batch& batch : batches) {
      for (int i = 0; i < 3; ++i) check_detects(*backend, batch);
    }
  }
}

// `calls`: of each of as many threads.
void test_threads(const std::string& path, const std::vector<Batch>& batches, size_t calls) {
  const auto backend = open_engine(path);
  std::vector<std::thread> threads;
  for (size_t first = 0; first < calls; ++first) {
    threads.emplace_back([&, first] {
      for (size_t i = 0; i < calls; ++i) check_detects(*backend, batches[(first + i / 2) % batches.size()]);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void test_refusals(const std::string& folder, const Engine& engine, const std::vector<Batch>& batches, size_t calls) {
  const std::string path = folder + "/refused.engine";
  const auto open = [&path] { open_engine(path); };
  const auto refused = [&](const json& changes, const std::string& words) {
    engine.save(path, changes);
    check_throws<ModelError>(words, open);
  };
  refused({{"fingerprint", {{"tensorrt", "tensorrt_rtx"}}}}, "was built by tensorrt_rtx");
  refused({{"fingerprint", {{"tensorrt_version", "9.9.9"}}}}, "was built by tensorrt 9.9.9, but tensorrt");
  refused({{"fingerprint", {{"compute_capability", {9, 0}}}}},
          "it was built for compute capability 9.0, but this is 8.7");
  refused({{"engine_sha256", "0"}}, "is not the engine that refused.engine.json describes");
  refused({{"format", 2}}, "has the format 2");
  refused({{"checksum", "0"}}, "was changed after it was written");
  refused({{"precision", 16}}, "precision must be of type str");
  refused({{"speed", 1}}, "unknown field speed");
  refused({{"size_bytes", nullptr}}, "field size_bytes is missing");
  refused({{"profile", {{"min", {9, 3, 1, 1}}}}}, "min <= opt <= max");
  std::ofstream(path + ".json") << "{";
  check_throws<ModelError>("is not valid JSON", open);
  std::remove((path + ".json").c_str());
  check_throws<ModelError>("needs the file refused.engine.json beside it", open);
  check_throws<ModelError>("retinasdk build people.onnx -o people.engine", [] { open_engine("people.onnx"); });

  engine.save(path);
  const auto backend = open_engine(path);
  check_detects(*backend, batches[0]);
  check_throws<std::invalid_argument>("accepts inputs from (1, 3, 1, 1) to (4, 3, 512, 512)", [&] {
    Random random(1);
    check_detects(*backend, {{random_image(random, 8, 600)}, {{}}});
  });
  // A run that fails closes its lane; the next call gets another one.
  refuse("run");
  check_throws<DeviceError>("TensorRT failed on the input shape", [&] { check_detects(*backend, batches[0]); });
  refuse("");
  check_detects(*backend, batches[0]);
  // Where TensorRT cannot be recorded, all launches stay direct.
  refuse("capture");
  for (int i = 0; i < 4; ++i) check_detects(*backend, batches[1]);
  refuse("context");
  test_threads(path, batches, calls);
  refuse("");
  setenv("CUDA_ON_CPU_DEVICES", "0", 1);
  check_throws<DeviceError>("there is no usable one here", open);
  unsetenv("CUDA_ON_CPU_DEVICES");
}

// A batch that is smaller than the engine's smallest is filled with copies, whose results are dropped.
void test_smallest_batch(const std::string& folder, Random& random) {
  Engine engine(random);
  const Image image = random_image(random, 40, 60);
  Batch batch{{image}, engine.add({image, image})};
  batch.expected.resize(1);
  engine.save(folder + "/pairs.engine", json::object(), 2);
  const auto backend = open_engine(folder + "/pairs.engine");
  for (int i = 0; i < 3; ++i) check_detects(*backend, batch);
}

// Each call of the CUDA runtime fails once, in the first three frames: then there is an error, or the right result, and
// nothing is left behind.
void test_faults(const std::string& path, const Batch& batch) {
  const auto use = [&] {
    const auto backend = open_engine(path);
    for (int i = 0; i < 3; ++i) check_detects(*backend, batch);
  };
  cuda_on_cpu_fail(0, 0);
  use();
  const long calls = cuda_on_cpu_calls();
  long errors = 0;
  for (long call = 1; call <= calls; ++call) {
    cuda_on_cpu_fail(call, call);
    try {
      use();
    } catch (const DeviceError&) {
      ++errors;
    }
    cuda_on_cpu_fail(0, 0);
    check(cuda_on_cpu_live() == 0, "after an error, all memory, streams and graphs are released");
  }
  check(errors > 0, "calls that fail are errors");
  std::printf("%ld calls of the CUDA runtime failed once, with %ld errors\n", calls, errors);
}

}  // namespace

// tensorrt_runtime FOLDER CALLS: engines are written into the folder; the more calls, the longer it takes.
int main(int, char** argv) {
  const std::string folder = argv[1];
  const auto calls = static_cast<size_t>(std::atoi(argv[2]));
  mkdir(folder.c_str(), 0755);
  Random random(7);
  Engine engine(random);
  std::vector<Batch> batches;
  const auto record = [&](const std::vector<Image>& images) { batches.push_back({images, engine.add(images)}); };
  record({random_image(random, 48, 64)});
  record({random_image(random, 48, 64)});  // The same shape with other pixels.
  record({random_image(random, 33, 40)});  // The same padded shape.
  record({random_image(random, 30, 64), random_image(random, 20, 50)});
  const std::string path = folder + "/random.engine";
  engine.save(path);
  test_frames(path, batches, calls);
  setenv("CUDA_ON_CPU_INTEGRATED", "1", 1);  // Images and results are not copied then.
  test_frames(path, batches, 2);
  unsetenv("CUDA_ON_CPU_INTEGRATED");
  test_threads(path, batches, calls);
  if (calls >= 6) test_faults(path, batches[2]);  // One thread, so the thread sanitizer would see nothing new.
  test_smallest_batch(folder, random);
  test_refusals(folder, engine, batches, calls);
  check(cuda_on_cpu_live() == 0, "all memory, streams and graphs are released");
  std::printf("tensorrt_runtime: TensorRT %s\n", tensorrt_headers().c_str());
}
