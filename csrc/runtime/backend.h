// A loaded network with its pre- and post-processing on one device. The counterpart of retinasdk/backends/base.py.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/rules.h"

namespace retinasdk::runtime {

// The boxes of one image that remain after suppression, best first.
struct Kept {
  std::vector<float> boxes;  // (n, 4) xyxy, or (n, 6) rotated (see rotated_box_coder.h), in network-input pixels.
  std::vector<float> scores;
  std::vector<int32_t> class_ids;
};

// The options of a call, checked.
struct DetectOptions {
  std::vector<double> score_thresholds;  // One for all classes, or one for each.
  std::vector<int32_t> class_ids;        // The classes to detect. Empty: all.
  std::vector<float> ignore;             // (R, 4) xyxy regions in pixels of the original images, R up to kMaxRegions.
};

// Several threads may call one backend at once.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const ModelSpec& spec() const = 0;
  // "cpu" or "cuda".
  virtual const char* device() const = 0;
  // The only batch size that the network accepts. The backend pads smaller batches to it.
  virtual std::optional<int> fixed_batch() const = 0;
  // The largest batch that the network accepts. None: there is no limit.
  virtual std::optional<int> max_batch() const = 0;

  // Preprocesses images, runs the network, decodes its outputs and resolves overlapping boxes.
  //
  // images: RGB, in host memory. transforms: one for each image, all with the same padded size.
  //
  // Throws ClosedError in a forked process, DeviceError if the device fails, and ModelError if the network fails or its
  // outputs do not fit the spec.
  virtual std::vector<Kept> detect(const std::vector<ImageView>& images, const std::vector<Transform>& transforms,
                                   const DetectOptions& options) = 0;
};

}  // namespace retinasdk::runtime
