#include "runtime/onnx_backend.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "runtime/onnx_session.h"
#include "runtime/postprocess.h"

#ifdef _WIN32
#include <process.h>
#define getpid _getpid
#else
#include <unistd.h>
#endif

namespace retinasdk::runtime {
namespace {

// Returns the number of threads of a call: one for each core, unless it is given.
int threads_of(std::optional<int> threads) {
  return std::clamp(threads.value_or(static_cast<int>(std::thread::hardware_concurrency())), 1, kMaxThreads);
}

class OnnxBackend final : public Backend {
 public:
  OnnxBackend(const std::filesystem::path& path, const ModelSpec* spec, std::optional<int> threads,
              const Suppression& suppression, const std::string& library, std::string& warning)
      : suppression_(suppression), threads_(threads_of(threads)), process_(getpid()) {
    const OrtLibrary& runtime = ort_library(library);
    read_unchanged(path, [&] {
      session_ = std::make_unique<OnnxSession>(runtime, path, threads);
      if (spec != nullptr) {
        spec_ = *spec;
        return;
      }
      FoundSpec found = find_spec(path, session_->metadata(kMetadataKey));
      spec_ = std::move(found.spec);
      warning = std::move(found.warning);
    });
    fixed_batch_ = check_fits(session_->inputs(), session_->outputs(), spec_, path);
    for (const Level& level : spec_.levels) outputs_.push_back(level.logits);
    for (const Level& level : spec_.levels) outputs_.push_back(level.deltas);
  }

  // In a forked process, the session's threads do not exist, so releasing it would wait for them forever.
  ~OnnxBackend() override {
    if (getpid() != process_) static_cast<void>(session_.release());
  }

  const ModelSpec& spec() const override { return spec_; }
  const char* device() const override { return "cpu"; }
  std::optional<int> fixed_batch() const override { return fixed_batch_; }
  std::optional<int> max_batch() const override { return std::nullopt; }

  std::vector<Kept> detect(const std::vector<ImageView>& images, const std::vector<Transform>& transforms,
                           const DetectOptions& options) override {
    if (getpid() != process_) {
      throw ClosedError(
          "The Detector was created before this process was forked, and its threads do not work across a fork. Create "
          "it after the fork");
    }
    const Size padded = transforms[0].padded;
    const size_t floats = size_t{3} * static_cast<size_t>(padded.height) * static_cast<size_t>(padded.width);
    const size_t count = std::max(images.size(), static_cast<size_t>(fixed_batch_.value_or(1)));
    const std::unique_ptr<float[]> tensor(new float[count * floats]);  // Written completely.
    for (size_t i = 0; i < images.size(); ++i) {
      preprocess(images[i], preprocess_options(spec_, transforms[i]), &tensor[i * floats], threads_);
    }
    for (size_t i = images.size(); i < count; ++i) {  // The batch is padded with copies.
      std::memcpy(&tensor[i * floats], &tensor[(i - 1) * floats], floats * sizeof(float));
    }
    const Shape shape = {static_cast<int64_t>(count), 3, padded.height, padded.width};
    const std::vector<OutputTensor> outputs = infer(tensor.get(), shape);
    return decode_and_suppress(heads_of(outputs, images.size()), spec_, suppression_, transforms, options);
  }

 private:
  std::vector<OutputTensor> infer(const float* tensor, const Shape& shape) const {
    try {
      return session_->run(spec_.input, tensor, shape, outputs_);
    } catch (const std::runtime_error& error) {
      const std::string sides = std::to_string(shape[2]) + ", " + std::to_string(shape[3]);
      throw ModelError("ONNX Runtime failed for an input of shape (" + std::to_string(shape[0]) + ", 3, " + sides +
                       "): " + error.what());
    }
  }

  HeadOutputs heads_of(const std::vector<OutputTensor>& outputs, size_t images) const {
    HeadOutputs heads;
    const size_t levels = spec_.levels.size();
    for (size_t i = 0; i < outputs.size(); ++i) {
      const std::vector<int64_t>& sizes = outputs[i].shape();
      if (sizes.size() != 4 || sizes[0] < static_cast<int64_t>(images)) {
        throw ModelError("output " + outputs_[i] + " must have 4 axes, the first one for the images");
      }
      const Shape shape = {static_cast<int64_t>(images), sizes[1], sizes[2], sizes[3]};
      (i < levels ? heads.logits : heads.deltas).push_back(outputs[i].data());
      (i < levels ? heads.logit_shapes : heads.delta_shapes).push_back(shape);
    }
    return heads;
  }

  const Suppression suppression_;
  const int threads_;  // For the preprocessing.
  const int process_;
  std::unique_ptr<OnnxSession> session_;
  ModelSpec spec_;
  std::optional<int> fixed_batch_;
  std::vector<std::string> outputs_;  // The names of the logits of all levels, then of the deltas.
};

}  // namespace

std::unique_ptr<Backend> open_onnx(const std::filesystem::path& path, const ModelSpec* spec, std::optional<int> threads,
                                   const Suppression& suppression, const std::string& library, std::string& warning) {
  return std::make_unique<OnnxBackend>(path, spec, threads, suppression, library, warning);
}

}  // namespace retinasdk::runtime
