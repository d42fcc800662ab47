// Images in, detections out. The counterpart of retinasdk/detector.py.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/backend.h"
#include "runtime/images.h"
#include "runtime/postprocess.h"

namespace retinasdk::runtime {

struct DetectorOptions {
  std::string device = "auto";
  std::optional<ModelSpec> spec;  // None: that of the model file.
  std::string onnxruntime;        // The path of the library, see ort_library().
  std::optional<int> threads;     // None: one for each core.
  std::optional<double> score_threshold;
  Suppression suppression;
};

struct CallOptions {
  std::vector<double> score_thresholds;  // One, or one for each class. NaN keeps that of the detector. Empty: all do.
  std::vector<int32_t> class_ids;
  std::vector<std::string> class_names;
  std::vector<float> ignore;  // (R, 4).
};

// Several threads may call one detector at once.
class Detector {
 public:
  // Throws ModelError, DeviceError and MissingDependencyError, and std::invalid_argument for options out of range.
  Detector(const std::filesystem::path& path, const DetectorOptions& options);

  // Returns what was found in each image.
  //
  // Throws ImageError, ModelError, DeviceError, and std::invalid_argument for options out of range.
  std::vector<Found> detect(const std::vector<Image>& images, const CallOptions& options) const;

  const ModelSpec& spec() const { return backend_->spec(); }
  const char* device() const { return backend_->device(); }
  const std::string& warning() const { return warning_; }

 private:
  DetectOptions checked(const CallOptions& options) const;
  void detect_some(const Image* images, size_t count, const DetectOptions& options, std::vector<Found>& found) const;
  size_t batch_size(Size padded) const;

  std::string warning_;
  std::unique_ptr<Backend> backend_;
  double score_threshold_;
  std::vector<int32_t> default_class_ids_;
};

}  // namespace retinasdk::runtime
