#include "runtime/detector.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "retinasdk/ops.h"
#include "runtime/json_text.h"
#include "runtime/model_file.h"
#include "runtime/onnx_backend.h"
#include "runtime/tensorrt/tensorrt_backend.h"

namespace retinasdk::runtime {
namespace {

// So many images are in work at a time, and so many pixels go through the network together: activations take far more
// memory than pixels.
constexpr size_t kMaxImages = 16;
constexpr int64_t kMaxBatchPixels = 1 << 23;

double checked_score(double score) {
  if (!(score >= 0.0 && score <= 1.0)) {
    throw std::invalid_argument("score_threshold must be a number from 0 to 1, got " + python_repr(score));
  }
  return score;
}

std::unique_ptr<Backend> open_backend(const std::filesystem::path& path, const DetectorOptions& options,
                                      std::string& warning) {
  const std::string& device = options.device;
  if (device != "auto" && device != "cpu" && device != "cuda") {
    throw std::invalid_argument("device must be one of auto, cpu, cuda; got " + python_repr(device));
  }
  const bool is_engine = path.extension() == ".engine";
  if (is_engine && device == "cpu") {
    throw std::invalid_argument(path.string() +
                                " is a TensorRT engine, which runs only on the GPU, but device is 'cpu'; give the ONNX "
                                "file that it was built from, or device='cuda'");
  }
  if (is_engine || device == "cuda") {
    return open_tensorrt(path.string(), options.spec ? &*options.spec : nullptr, options.suppression, warning);
  }
  return open_onnx(path, options.spec ? &*options.spec : nullptr, options.threads, options.suppression,
                   options.onnxruntime, warning);
}

// Throws std::invalid_argument if a region has no area or too many are given.
void check_regions(const std::vector<float>& regions) {
  if (regions.size() > size_t{4} * kMaxRegions) {
    throw std::invalid_argument("ignore may name 64 regions, got " + std::to_string(regions.size() / 4) +
                                "; join some of them");
  }
  for (size_t i = 0; i + 3 < regions.size(); i += 4) {
    const float* region = &regions[i];
    const bool is_finite = std::all_of(region, region + 4, [](float edge) { return std::isfinite(edge); });
    if (is_finite && region[2] > region[0] && region[3] > region[1]) continue;
    std::string given;
    for (size_t k = 0; k < 4; ++k) given += (k == 0 ? "" : ", ") + python_repr(static_cast<double>(region[k]));
    throw std::invalid_argument("ignore has a region without area, got (" + given +
                                "); give a list of (x1, y1, x2, y2) in pixels of the image, with x1 < x2 and y1 < y2");
  }
}

std::string known_labels(const std::vector<std::string>& labels) {
  const std::set<std::string> known(labels.begin(), labels.end());
  std::string text;
  size_t shown = 0;
  for (const std::string& label : known) {
    if (shown++ == 20) return text + " and " + std::to_string(known.size() - 20) + " more";
    text += (text.empty() ? "" : ", ") + label;
  }
  return text;
}

// Returns the sorted, distinct ids of classes.
std::vector<int32_t> class_ids_of(const CallOptions& options, const std::vector<std::string>& labels) {
  std::set<int32_t> ids;
  for (const std::string& name : options.class_names) {
    bool is_known = false;
    for (size_t i = 0; i < labels.size(); ++i) {
      if (labels[i] != name) continue;
      ids.insert(static_cast<int32_t>(i));
      is_known = true;
    }
    if (!is_known) {
      throw std::invalid_argument("unknown class " + python_repr(name) + "; the model knows " + known_labels(labels));
    }
  }
  for (const int32_t id : options.class_ids) {
    if (id < 0 || static_cast<size_t>(id) >= labels.size()) {
      throw std::invalid_argument("class index must be 0 to " + std::to_string(labels.size() - 1) + ", got " +
                                  std::to_string(id));
    }
    ids.insert(id);
  }
  return {ids.begin(), ids.end()};
}

}  // namespace

Detector::Detector(const std::filesystem::path& path, const DetectorOptions& options) {
  if (options.threads && (*options.threads < 1 || *options.threads > kMaxThreads)) {
    throw std::invalid_argument("threads must be an integer from 1 to 1024, got " + std::to_string(*options.threads) +
                                "; leave it out for one a core");
  }
  if (options.score_threshold) checked_score(*options.score_threshold);
  check_model_path(path);
  backend_ = open_backend(path, options, warning_);
  options.suppression.check(spec());
  score_threshold_ = options.score_threshold.value_or(spec().score_threshold);
  const std::set<std::string> ignored(spec().ignore_labels.begin(), spec().ignore_labels.end());
  for (size_t i = 0; i < spec().labels.size() && !ignored.empty(); ++i) {
    if (ignored.count(spec().labels[i]) == 0) default_class_ids_.push_back(static_cast<int32_t>(i));
  }
}

DetectOptions Detector::checked(const CallOptions& options) const {
  const size_t classes = spec().labels.size();
  DetectOptions rules{{score_threshold_}, default_class_ids_, options.ignore};
  if (!options.score_thresholds.empty()) {
    if (options.score_thresholds.size() != 1 && options.score_thresholds.size() != classes) {
      throw std::invalid_argument("score_thresholds must have one entry, or one for each of the " +
                                  std::to_string(classes) + " classes, got " +
                                  std::to_string(options.score_thresholds.size()));
    }
    rules.score_thresholds = options.score_thresholds;
    for (double& score : rules.score_thresholds) score = std::isnan(score) ? score_threshold_ : checked_score(score);
  }
  if (!options.class_ids.empty() || !options.class_names.empty()) {
    rules.class_ids = class_ids_of(options, spec().labels);
  }
  check_regions(options.ignore);
  return rules;
}

std::vector<Found> Detector::detect(const std::vector<Image>& images, const CallOptions& options) const {
  const DetectOptions rules = checked(options);
  std::vector<Found> found(images.size());
  for (size_t first = 0; first < images.size(); first += kMaxImages) {
    const size_t count = std::min(kMaxImages, images.size() - first);
    std::vector<Found> some(count);
    detect_some(&images[first], count, rules, some);
    std::move(some.begin(), some.end(), found.begin() + static_cast<std::ptrdiff_t>(first));
  }
  return found;
}

void Detector::detect_some(const Image* images, size_t count, const DetectOptions& options,
                           std::vector<Found>& found) const {
  std::vector<std::vector<uint8_t>> converted(count);
  std::vector<ImageView> views;
  std::vector<Transform> transforms;
  std::vector<std::pair<Size, std::vector<size_t>>> groups;  // The images of each size of the network's input.
  for (size_t i = 0; i < count; ++i) {
    views.push_back(as_rgb(images[i], converted[i]));
    transforms.push_back(Transform::plan({images[i].height, images[i].width}, spec()));
    const Size padded = transforms.back().padded;
    auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& item) { return item.first == padded; });
    if (group == groups.end()) group = groups.insert(groups.end(), {padded, {}});
    group->second.push_back(i);
  }
  for (const auto& [padded, members] : groups) {
    const size_t size = batch_size(padded);
    for (size_t first = 0; first < members.size(); first += size) {
      const size_t end = std::min(members.size(), first + size);
      std::vector<ImageView> batch;
      std::vector<Transform> plans;
      for (size_t i = first; i < end; ++i) {
        batch.push_back(views[members[i]]);
        plans.push_back(transforms[members[i]]);
      }
      std::vector<Kept> kept = backend_->detect(batch, plans, options);
      for (size_t i = first; i < end; ++i) {
        found[members[i]] = to_original(std::move(kept[i - first]), spec(), transforms[members[i]]);
      }
    }
  }
}

size_t Detector::batch_size(Size padded) const {
  if (const auto fixed = backend_->fixed_batch()) return static_cast<size_t>(std::max(1, *fixed));
  const int64_t fits = kMaxBatchPixels / (int64_t{1} * padded.height * padded.width);
  const int64_t most = backend_->max_batch().value_or(static_cast<int>(kMaxImages));
  return static_cast<size_t>(std::min(std::max(int64_t{1}, fits), most));
}

}  // namespace retinasdk::runtime
