#include "runtime/tensorrt/tensorrt_backend.h"

#include <unistd.h>

#include <utility>

#include "runtime/errors.h"
#include "runtime/tensorrt/lane_pool.h"

namespace retinasdk::runtime {
namespace trt {
namespace {

// The most execution contexts that exist at a time. Each needs memory for its activations. Two keep the GPU busy while
// one of the threads works on the host; further ones only shorten the wait of further threads.
constexpr int kMaxLanes = 4;

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Checks what does not need the engine, and loads it.
std::unique_ptr<Engine> open_engine(const std::string& path, const ModelSpec* spec, std::string& warning) {
  if (!ends_with(path, ".engine")) {
    throw ModelError(path + " is not a TensorRT engine, which device 'cuda' needs. Build one on this machine with: " +
                     "retinasdk build " + path + " -o " + path.substr(0, path.find_last_of('.')) + ".engine");
  }
  require_gpu();
  const CurrentDevice current;
  return std::make_unique<Engine>(path, spec, warning);
}

// Several threads may call it.
class TensorRtBackend final : public Backend {
 public:
  TensorRtBackend(const std::string& path, const ModelSpec* spec, const Suppression& suppression, std::string& warning)
      : engine_(open_engine(path, spec, warning)),
        pool_(std::make_unique<LanePool>([this, suppression] { return new_lane(suppression); }, kMaxLanes)),
        process_(getpid()) {}

  ~TensorRtBackend() override { release(); }

  const ModelSpec& spec() const override { return engine_->spec(); }
  const char* device() const override { return "cuda"; }
  std::optional<int> fixed_batch() const override {
    const Profile& profile = engine_->profile();
    return profile.min[0] == profile.max[0] ? std::optional<int>(profile.max[0]) : std::nullopt;
  }
  std::optional<int> max_batch() const override { return engine_->profile().max[0]; }

  std::vector<Kept> detect(const std::vector<ImageView>& images, const std::vector<Transform>& transforms,
                           const DetectOptions& options) override {
    const size_t smallest = static_cast<size_t>(engine_->profile().min[0]);
    if (images.size() >= smallest) return detect_batch(images, transforms, options);
    // The batch is filled with copies, whose results are dropped.
    std::vector<ImageView> filled = images;
    std::vector<Transform> filled_transforms = transforms;
    filled.resize(smallest, images.back());
    filled_transforms.resize(smallest, transforms.back());
    std::vector<Kept> kept = detect_batch(filled, filled_transforms, options);
    kept.resize(images.size());
    return kept;
  }

 private:
  std::vector<Kept> detect_batch(const std::vector<ImageView>& images, const std::vector<Transform>& transforms,
                                 const DetectOptions& options) {
    const InputShape shape{static_cast<int>(images.size()), 3, transforms[0].padded.height, transforms[0].padded.width};
    check_callable(shape);
    const CurrentDevice current;
    return pool_->with_lane(shape, [&](Lane& lane) { return lane.detect(images, transforms, options); });
  }

  void check_callable(const InputShape& shape) const {
    if (getpid() != process_) {
      throw ClosedError(
          "The Detector was created before this process was forked, and CUDA does not work across a fork. Create it "
          "after the fork.");
    }
    const Profile& profile = engine_->profile();
    if (!profile.holds(shape)) {
      throw std::invalid_argument(engine_->path() + " accepts inputs from " + in_words(profile.min) + " to " +
                                  in_words(profile.max) + " (images, channels, height, width), but got " +
                                  in_words(shape) + ". Build an engine for that size: retinasdk build --help");
    }
  }

  std::unique_ptr<Lane> new_lane(const Suppression& suppression) {
    auto lane = std::make_unique<Lane>(*engine_, suppression, &refused_);
    return lane->is_usable() ? std::move(lane) : nullptr;
  }

  // Releases the lanes, and then the engine.
  void release() noexcept {
    if (getpid() != process_) {  // In a forked process, the objects of CUDA belong to the parent.
      static_cast<void>(pool_.release());
      static_cast<void>(engine_.release());
      return;
    }
    try {
      const CurrentDevice current;
      pool_.reset();
      engine_.reset();
    } catch (const DeviceError&) {  // The GPU is lost. What is on the host is released by the members' destructors.
    }
  }

  std::unique_ptr<Engine> engine_;
  RefusedShapes refused_;
  std::unique_ptr<LanePool> pool_;
  pid_t process_;
};

}  // namespace
}  // namespace trt

std::unique_ptr<Backend> open_tensorrt(const std::string& path, const ModelSpec* spec, const Suppression& suppression,
                                       std::string& warning) {
  return std::make_unique<trt::TensorRtBackend>(path, spec, suppression, warning);
}

std::string tensorrt_headers() { return trt::header_version(); }

}  // namespace retinasdk::runtime
