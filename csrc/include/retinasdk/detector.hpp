// libretinasdk: RetinaNet detectors in C++. One header over the C interface of retinasdk.h, which says more about
// memory, threads and versions.
//
//   retinasdk::Detector detector("model.onnx");
//   const retinasdk::Image image = retinasdk::Image::rgb(pixels, width, height);
//   for (const retinasdk::Detection& found : detector.detect(image)) {
//     std::cout << found.label << ' ' << found.score << ' ' << found.x1 << '\n';
//   }
//
// All functions throw the exceptions below. The header needs C++17 and works with any compiler: only C types cross the
// boundary of the library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "retinasdk/retinasdk.h"

namespace retinasdk {

// The base class of the exceptions. The message says what is wrong, what was expected, and what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// An argument is out of range.
class ArgumentError : public Error {
 public:
  using Error::Error;
};

// A model file or its spec cannot be used, or the two do not match.
class ModelError : public Error {
 public:
  using Error::Error;
};

// The size of an image is not supported.
class ImageError : public Error {
 public:
  using Error::Error;
};

// The device is not available or failed, or the process was forked after the detector was made.
class DeviceError : public Error {
 public:
  using Error::Error;
};

// A library that is loaded at run time is missing, such as ONNX Runtime.
class MissingDependencyError : public Error {
 public:
  using Error::Error;
};

// Throws the exception of a status.
inline void check(rsdk_status status) {
  switch (status) {
    case RSDK_OK:
      return;
    case RSDK_ERROR_ARGUMENT:
      throw ArgumentError(rsdk_last_error());
    case RSDK_ERROR_MODEL:
      throw ModelError(rsdk_last_error());
    case RSDK_ERROR_IMAGE:
      throw ImageError(rsdk_last_error());
    case RSDK_ERROR_DEVICE:
      throw DeviceError(rsdk_last_error());
    case RSDK_ERROR_MISSING_DEPENDENCY:
      throw MissingDependencyError(rsdk_last_error());
    case RSDK_ERROR_MEMORY:
      throw std::bad_alloc();
    case RSDK_ERROR_INTERNAL:
      break;
  }
  throw Error(rsdk_last_error());
}

// A view of an image in host memory, which stays the caller's. row_bytes is the distance from one row to the next; 0:
// rows without gaps.
struct Image : rsdk_image {
  Image(rsdk_pixel_format pixel_format, const void* pixels, int image_width, int image_height,
        std::ptrdiff_t bytes_of_row = 0)
      : rsdk_image{} {
    struct_size = sizeof(rsdk_image);
    format = pixel_format;
    width = image_width;
    height = image_height;
    planes[0] = pixels;
    row_bytes[0] = bytes_of_row;
  }

  static Image rgb(const std::uint8_t* pixels, int width, int height, std::ptrdiff_t row_bytes = 0) {
    return {RSDK_RGB8, pixels, width, height, row_bytes};
  }
  // As OpenCV stores images: Image::bgr(mat.data, mat.cols, mat.rows, mat.step).
  static Image bgr(const std::uint8_t* pixels, int width, int height, std::ptrdiff_t row_bytes = 0) {
    return {RSDK_BGR8, pixels, width, height, row_bytes};
  }
  static Image gray(const std::uint8_t* pixels, int width, int height, std::ptrdiff_t row_bytes = 0) {
    return {RSDK_GRAY8, pixels, width, height, row_bytes};
  }
  static Image nv12(const std::uint8_t* luma, std::ptrdiff_t luma_row_bytes, const std::uint8_t* chroma,
                    std::ptrdiff_t chroma_row_bytes, int width, int height, rsdk_color_matrix matrix = RSDK_BT601,
                    bool full_range = false) {
    Image image(RSDK_NV12, luma, width, height, luma_row_bytes);
    image.planes[1] = chroma;
    image.row_bytes[1] = chroma_row_bytes;
    image.matrix = matrix;
    image.full_range = full_range ? 1 : 0;
    return image;
  }
};

// How a model is opened. The comments of rsdk_options say more.
struct Options : rsdk_options {
  Options() : rsdk_options{} { rsdk_options_init(this, sizeof(rsdk_options)); }
};

// The options of a call.
struct CallOptions {
  std::optional<double> score_threshold;  // Overrides that of the detector, 0 to 1.
  std::vector<double> score_thresholds;   // One for each class of the model. NaN keeps that of the detector.
  std::vector<std::string> classes;       // Labels of the classes to detect.
  std::vector<std::int32_t> class_ids;    // And their indices. None of both: all classes.
  struct Region {
    float x1, y1, x2, y2;
  };
  std::vector<Region> ignore;  // At most 64. A box with more than half of its area in one of them is dropped.
};

// An object in an image.
struct Detection {
  float x1, y1, x2, y2;  // In pixels of the image. Edges are continuous: the width is x2 - x1.
  float score;           // 0 to 1.
  std::int32_t class_id;
  std::string label;
  // For models with rotated boxes. Then x1, y1, x2, y2 enclose the rotated box.
  struct Rotated {
    float center_x, center_y, width, height, angle;  // The angle is in radians, clockwise on the screen.
  };
  std::optional<Rotated> rotated;
};

using Detections = std::vector<Detection>;  // Best first.

// A loaded model. Several threads may call detect() of one detector at once. It can be moved, but not copied.
class Detector {
 public:
  // path: of an ONNX file, in UTF-8.
  explicit Detector(const std::string& path, const rsdk_options& options = Options()) : handle_(nullptr) {
    rsdk_detector* opened = nullptr;
    check(rsdk_detector_open(path.c_str(), &options, &opened));
    handle_.reset(opened);
  }

  // Detects objects in one image.
  Detections detect(const rsdk_image& image, const CallOptions& options = {}) const {
    return std::move(detect_images(&image, 1, options)[0]);
  }

  // Detects objects in images of any sizes. Those whose network inputs have the same size are run as one batch.
  std::vector<Detections> detect(const std::vector<Image>& images, const CallOptions& options = {}) const {
    static_assert(sizeof(Image) == sizeof(rsdk_image), "an array of images is an array of the C interface");
    return detect_images(images.data(), images.size(), options);
  }

  std::string name() const { return rsdk_detector_name(handle_.get()); }
  std::string device() const { return rsdk_detector_device(handle_.get()); }  // "cpu" or "cuda".
  std::string warning() const { return rsdk_detector_warning(handle_.get()); }
  bool is_rotated() const { return rsdk_detector_is_rotated(handle_.get()) != 0; }
  std::vector<std::string> labels() const {
    std::vector<std::string> labels;
    const std::int32_t count = rsdk_detector_class_count(handle_.get());
    for (std::int32_t i = 0; i < count; ++i) labels.emplace_back(rsdk_detector_label(handle_.get(), i));
    return labels;
  }

 private:
  struct Close {
    void operator()(rsdk_detector* detector) const { rsdk_detector_close(detector); }
  };
  struct Free {
    void operator()(rsdk_results* results) const { rsdk_results_free(results); }
  };

  std::vector<Detections> detect_images(const rsdk_image* images, std::size_t count, const CallOptions& options) const {
    rsdk_call_options call{};
    call.struct_size = sizeof call;
    call.score_thresholds = options.score_thresholds.data();
    call.score_threshold_count = options.score_thresholds.size();
    if (options.score_threshold) {
      if (!options.score_thresholds.empty()) {
        throw ArgumentError("set score_threshold or score_thresholds, not both");
      }
      call.score_thresholds = &*options.score_threshold;
      call.score_threshold_count = 1;
    }
    std::vector<const char*> names;
    for (const std::string& name : options.classes) names.push_back(name.c_str());
    call.class_names = names.data();
    call.class_name_count = names.size();
    call.class_ids = options.class_ids.data();
    call.class_id_count = options.class_ids.size();
    static_assert(sizeof(CallOptions::Region) == 4 * sizeof(float), "regions are rows of four numbers");
    call.ignore = options.ignore.empty() ? nullptr : &options.ignore[0].x1;
    call.ignore_count = options.ignore.size();
    rsdk_results* returned = nullptr;
    check(rsdk_detect(handle_.get(), images, count, &call, &returned));
    const std::unique_ptr<rsdk_results, Free> results(returned);
    std::vector<Detections> found(count);
    for (std::size_t i = 0; i < count; ++i) found[i] = read(results.get(), i);
    return found;
  }

  Detections read(const rsdk_results* results, std::size_t index) const {
    rsdk_detections view{};
    view.struct_size = sizeof view;
    check(rsdk_results_get(results, index, &view));
    Detections found;
    found.reserve(view.count);
    for (std::size_t i = 0; i < view.count; ++i) {
      const float* box = view.xyxy + i * 4;
      const std::int32_t class_id = view.class_ids[i];
      found.push_back({box[0], box[1], box[2], box[3], view.scores[i], class_id,
                       rsdk_detector_label(handle_.get(), class_id), std::nullopt});
      if (view.xywhr != nullptr) {
        const float* turned = view.xywhr + i * 5;
        found.back().rotated = Detection::Rotated{turned[0], turned[1], turned[2], turned[3], turned[4]};
      }
    }
    return found;
  }

  std::unique_ptr<rsdk_detector, Close> handle_;
};

}  // namespace retinasdk
