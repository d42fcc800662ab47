// The C interface of retinasdk/retinasdk.h: checks pointers and sizes of structs, and turns exceptions into statuses.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <string>

#include "retinasdk/retinasdk.h"
#include "runtime/detector.h"
#include "runtime/errors.h"

using retinasdk::runtime::CallOptions;
using retinasdk::runtime::Detector;
using retinasdk::runtime::DetectorOptions;
using retinasdk::runtime::Found;
using retinasdk::runtime::Image;
using retinasdk::runtime::ImageFormat;
using retinasdk::runtime::ModelSpec;

struct rsdk_detector {
  Detector detector;
};

struct rsdk_results {
  std::vector<Found> found;
};

namespace {

constexpr double kDefault = std::numeric_limits<double>::quiet_NaN();

// The message of the thread's last error. A message that needs memory which is not there is replaced.
class LastError {
 public:
  void set(const char* message) noexcept {
    try {
      text_ = message;
    } catch (const std::bad_alloc&) {
      text_.clear();
      is_lost_ = true;
      return;
    }
    is_lost_ = false;
  }
  const char* get() const noexcept { return is_lost_ ? "there is not enough memory" : text_.c_str(); }

 private:
  std::string text_;
  bool is_lost_ = false;
};

LastError& last_error() {
  thread_local LastError error;
  return error;
}

rsdk_status failed(rsdk_status status, const char* message) noexcept {
  last_error().set(message);
  return status;
}

// Calls a function and turns its exception into a status.
template <typename Function>
rsdk_status guarded(const Function& call) noexcept {
  namespace rt = retinasdk::runtime;
  try {
    call();
    return RSDK_OK;
  } catch (const std::bad_alloc&) {
    return failed(RSDK_ERROR_MEMORY, "there is not enough memory; use smaller images or fewer at a time");
  } catch (const rt::ModelError& error) {
    return failed(RSDK_ERROR_MODEL, error.what());
  } catch (const rt::ImageError& error) {
    return failed(RSDK_ERROR_IMAGE, error.what());
  } catch (const rt::DeviceError& error) {
    return failed(RSDK_ERROR_DEVICE, error.what());
  } catch (const rt::MissingDependencyError& error) {
    return failed(RSDK_ERROR_MISSING_DEPENDENCY, error.what());
  } catch (const std::invalid_argument& error) {
    return failed(RSDK_ERROR_ARGUMENT, error.what());
  } catch (const std::exception& error) {
    return failed(RSDK_ERROR_INTERNAL, error.what());
  } catch (...) {
    return failed(RSDK_ERROR_INTERNAL, "unknown error");
  }
}

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Returns a struct of the program as this library knows it: fields that its header did not have keep their defaults.
template <typename T>
T read_struct(const T* given, T defaults, const char* name) {
  if (given == nullptr) return defaults;
  if (given->struct_size < sizeof(size_t) || given->struct_size > size_t{1} << 16) {
    throw std::invalid_argument(std::string(name) + ".struct_size must be sizeof(" + name + "), got " +
                                std::to_string(given->struct_size));
  }
  std::memcpy(&defaults, given, std::min(given->struct_size, sizeof(T)));
  return defaults;
}

rsdk_options default_options() {
  rsdk_options options{};
  options.struct_size = sizeof options;
  options.score_threshold = kDefault;
  options.iou_threshold = kDefault;
  options.sigma = 0.5;
  return options;
}

std::optional<double> number_or_default(double value) {
  return std::isnan(value) ? std::nullopt : std::optional<double>(value);
}

std::optional<int> limit_or_default(int32_t value) { return value == 0 ? std::nullopt : std::optional<int>(value); }

bool is_flag(int32_t value) { return value == 0 || value == 1; }

DetectorOptions detector_options(const rsdk_options& from) {
  constexpr const char* kRules[] = {"greedy", "soft_linear", "soft_gaussian", "fusion"};
  require(from.suppression >= RSDK_GREEDY && from.suppression <= RSDK_FUSION,
          "suppression must be an rsdk_suppression_rule, 0 to 3");
  require(is_flag(from.across_classes) && is_flag(from.fused_best), "across_classes and fused_best must be 0 or 1");
  DetectorOptions options;
  if (from.device != nullptr) options.device = from.device;
  if (from.spec_json != nullptr) options.spec = ModelSpec::from_json(std::string(from.spec_json), "spec");
  if (from.onnxruntime != nullptr) options.onnxruntime = from.onnxruntime;
  options.threads = limit_or_default(from.threads);
  options.score_threshold = number_or_default(from.score_threshold);
  options.suppression = {kRules[from.suppression],
                         from.across_classes == 1,
                         number_or_default(from.iou_threshold),
                         from.sigma,
                         from.fused_best == 1 ? "best" : "mean",
                         limit_or_default(from.max_per_class),
                         limit_or_default(from.max_detections)};
  return options;
}

CallOptions call_options(const rsdk_call_options& from) {
  require(from.score_thresholds != nullptr || from.score_threshold_count == 0, "score_thresholds must not be null");
  require(from.class_ids != nullptr || from.class_id_count == 0, "class_ids must not be null");
  require(from.class_names != nullptr || from.class_name_count == 0, "class_names must not be null");
  require(from.ignore != nullptr || from.ignore_count == 0, "ignore must not be null");
  CallOptions options;
  options.score_thresholds.assign(from.score_thresholds, from.score_thresholds + from.score_threshold_count);
  options.class_ids.assign(from.class_ids, from.class_ids + from.class_id_count);
  for (size_t i = 0; i < from.class_name_count; ++i) {
    require(from.class_names[i] != nullptr, "class_names must not have null entries");
    options.class_names.emplace_back(from.class_names[i]);
  }
  options.ignore.assign(from.ignore, from.ignore + from.ignore_count * 4);
  return options;
}

Image image_of(const rsdk_image& from) {
  require(from.format >= RSDK_RGB8 && from.format <= RSDK_P010, "format must be an rsdk_pixel_format, 0 to 5");
  require(from.matrix >= RSDK_BT601 && from.matrix <= RSDK_BT2020, "matrix must be an rsdk_color_matrix, 0 to 2");
  require(is_flag(from.full_range), "full_range must be 0 or 1");
  return {static_cast<ImageFormat>(from.format),
          from.height,
          from.width,
          {static_cast<const uint8_t*>(from.planes[0]), static_cast<const uint8_t*>(from.planes[1])},
          {from.row_bytes[0], from.row_bytes[1]},
          static_cast<retinasdk::ColorMatrix>(from.matrix),
          from.full_range == 1};
}

}  // namespace

const char* rsdk_version(void) { return RSDK_VERSION; }

const char* rsdk_last_error(void) { return last_error().get(); }

void rsdk_options_init(rsdk_options* options, size_t size) {
  if (options == nullptr) return;
  rsdk_options defaults = default_options();
  defaults.struct_size = size;
  std::memset(options, 0, size);
  std::memcpy(options, &defaults, std::min(size, sizeof defaults));
}

rsdk_status rsdk_detector_open(const char* path, const rsdk_options* options, rsdk_detector** detector) {
  if (detector != nullptr) *detector = nullptr;
  return guarded([&] {
    require(path != nullptr && detector != nullptr, "path and detector must not be null");
    const DetectorOptions chosen = detector_options(read_struct(options, default_options(), "rsdk_options"));
    *detector = new rsdk_detector{Detector(std::filesystem::u8path(path), chosen)};
  });
}

void rsdk_detector_close(rsdk_detector* detector) { delete detector; }

const char* rsdk_detector_name(const rsdk_detector* detector) {
  return detector == nullptr ? "" : detector->detector.spec().name.c_str();
}

const char* rsdk_detector_device(const rsdk_detector* detector) {
  return detector == nullptr ? "" : detector->detector.device();
}

int32_t rsdk_detector_class_count(const rsdk_detector* detector) {
  return detector == nullptr ? 0 : static_cast<int32_t>(detector->detector.spec().labels.size());
}

const char* rsdk_detector_label(const rsdk_detector* detector, int32_t class_id) {
  if (class_id < 0 || class_id >= rsdk_detector_class_count(detector)) return nullptr;
  return detector->detector.spec().labels[static_cast<size_t>(class_id)].c_str();
}

int32_t rsdk_detector_is_rotated(const rsdk_detector* detector) {
  return detector != nullptr && detector->detector.spec().is_rotated() ? 1 : 0;
}

const char* rsdk_detector_warning(const rsdk_detector* detector) {
  return detector == nullptr ? "" : detector->detector.warning().c_str();
}

rsdk_status rsdk_detect(const rsdk_detector* detector, const rsdk_image* images, size_t count,
                        const rsdk_call_options* options, rsdk_results** results) {
  if (results != nullptr) *results = nullptr;
  return guarded([&] {
    require(detector != nullptr && results != nullptr && (images != nullptr || count == 0),
            "detector, images and results must not be null");
    const CallOptions chosen = call_options(read_struct(options, rsdk_call_options{}, "rsdk_call_options"));
    std::vector<Image> given;
    const auto* bytes = reinterpret_cast<const unsigned char*>(images);
    for (size_t i = 0; i < count; ++i) {  // The program's struct can be shorter or longer than the library's.
      const auto* image = reinterpret_cast<const rsdk_image*>(bytes + i * images->struct_size);
      given.push_back(image_of(read_struct(image, rsdk_image{}, "rsdk_image")));
    }
    *results = new rsdk_results{detector->detector.detect(given, chosen)};
  });
}

size_t rsdk_results_count(const rsdk_results* results) { return results == nullptr ? 0 : results->found.size(); }

rsdk_status rsdk_results_get(const rsdk_results* results, size_t index, rsdk_detections* found) {
  return guarded([&] {
    require(results != nullptr && found != nullptr, "results and found must not be null");
    require(index < results->found.size(), "index must be below the number of images");
    const size_t size = read_struct(found, rsdk_detections{}, "rsdk_detections").struct_size;
    const Found& image = results->found[index];
    const rsdk_detections described{size,
                                    image.scores.size(),
                                    image.xyxy.data(),
                                    image.scores.data(),
                                    image.class_ids.data(),
                                    image.xywhr.empty() ? nullptr : image.xywhr.data()};
    std::memcpy(found, &described, std::min(size, sizeof described));
  });
}

void rsdk_results_free(rsdk_results* results) { delete results; }
