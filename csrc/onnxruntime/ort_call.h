// One call of an operator: its tensors, scratch memory from ONNX Runtime's arena, and its threads.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>

#include "convolution/blocked.h"
#include "onnxruntime/ort_abi.h"

namespace retinasdk::ort {

// Throws if ONNX Runtime reports an error.
inline void check(const Api& api, Status* status) {
  if (status == nullptr) return;
  const std::unique_ptr<Status, void (*)(Status*)> released(status, api.release_status);
  throw std::runtime_error(api.get_error_message(status));
}

constexpr int kMaxChannels = 65536;

// Whether all pixels can be counted in an int, and each size is one.
inline bool pixels_fit(int64_t batch, int64_t height, int64_t width) {
  constexpr int64_t most = INT32_MAX;
  if (batch > most || height > most || width > most) return false;
  return batch * height <= most && (batch * height == 0 || width <= most / (batch * height));
}

// The end of the messages about models that these operators cannot run, but ONNX Runtime's can.
constexpr const char* kOpenDirect = "; open the model with convolution=\"direct\"";

// The sizes of a tensor. Images have 4 or 5; of tensors with more than 8, only the rank is kept.
struct Shape {
  std::array<int64_t, 8> sizes{};
  std::size_t rank = 0;

  int64_t operator[](std::size_t index) const { return sizes[index]; }

  // The number of values. The sizes must all be kept.
  std::size_t count() const {
    std::size_t count = 1;
    for (std::size_t i = 0; i < rank; ++i) count *= static_cast<std::size_t>(sizes[i]);
    return count;
  }

  // For error messages, such as (1, 3, 8, 8).
  std::string text() const {
    if (rank > sizes.size()) return "a tensor with " + std::to_string(rank) + " dimensions";
    std::string listed;
    for (std::size_t i = 0; i < rank; ++i) listed += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
    return "(" + listed + (rank == 1 ? ",)" : ")");
  }
};

// An image batch, as an input or output of an operator.
struct Image {
  Layout layout = Layout::kBlocked;
  int batch = 0, channels = 0, height = 0, width = 0;

  bool is_empty() const { return batch == 0 || height == 0 || width == 0; }

  Shape shape() const {
    if (layout == Layout::kPlanar) return {{batch, channels, height, width}, 4};
    return {{batch, blocks_of(channels), height, width, kBlock}, 5};
  }
};

// Memory that scratch is taken from. Made once for each kernel.
class ScratchMemory {
 public:
  explicit ScratchMemory(const Api& api) : info_(nullptr, api.release_memory_info) {
    MemoryInfo* info = nullptr;
    check(api, api.create_cpu_memory_info(kArenaAllocator, kDefaultMemory, &info));
    info_.reset(info);
  }

  const MemoryInfo* info() const { return info_.get(); }

 private:
  std::unique_ptr<MemoryInfo, void (*)(MemoryInfo*)> info_;
};

class Call {
 public:
  Call(const Api& api, const ScratchMemory& memory, KernelContext* context)
      : api_(api), memory_(memory), context_(context) {}

  ~Call() {
    if (scratch_ != nullptr) {
      if (Status* status = api_.allocator_free(allocator_.get(), scratch_)) api_.release_status(status);
    }
  }

  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // Returns an input, which must have a layout and a number of channels (0: any). Its data is in `input`.
  Image image(Layout layout, int channels, std::size_t index = 0) {
    const Value* value = tensor(index);
    if (value == nullptr) throw std::invalid_argument("input " + std::to_string(index) + " is missing");
    const Image found = image_of(shape_of(value), layout, channels);
    input = data_of(value);
    return found;
  }

  // Returns input 1, which is added to an output, and its data in `added`. Throws std::invalid_argument if it does not
  // fit. If nothing is added, there must be no such input. factor: by which it must be enlarged, 0: any.
  Image addition(Addition kind, const Image& result, int factor = 0) {
    const Value* value = tensor(1);
    if (kind == Addition::kNone) {
      if (value != nullptr) throw std::invalid_argument("the attribute addition is 0, but there is an added tensor");
      return {};
    }
    Image expected = result;
    expected.layout = Layout::kBlocked;
    const Shape wanted = expected.shape();
    const Shape got = value == nullptr ? Shape{} : shape_of(value);
    bool fits = value != nullptr && got.rank == wanted.rank && got[0] == wanted[0] && got[1] == wanted[1] &&
                got[4] == wanted[4];
    for (const std::size_t side : {2, 3}) {
      if (kind == Addition::kSame || wanted[side] == 0) {
        fits = fits && got[side] == wanted[side];
      } else if (factor != 0) {
        fits = fits && wanted[side] % factor == 0 && got[side] == wanted[side] / factor;
      } else {  // Enlarged, never reduced.
        fits = fits && got[side] >= 1 && got[side] <= wanted[side];
      }
    }
    if (!fits) {
      throw std::invalid_argument(std::string("the added tensor must ") +
                                  (kind == Addition::kSame ? "have" : "be enlarged") +
                                  (factor == 0 ? "" : " " + std::to_string(factor) + " times") +
                                  (kind == Addition::kSame ? "" : " to") + " the shape of the output, " +
                                  wanted.text() + ", got " + (value == nullptr ? "none" : got.text()) + kOpenDirect);
    }
    added = data_of(value);
    expected.height = static_cast<int>(got[2]);
    expected.width = static_cast<int>(got[3]);
    return expected;
  }

  // Makes an output, with its data in `output`.
  void make_output(const Image& image, std::size_t index = 0) {
    const Shape shape = image.shape();
    Value* value = nullptr;
    check(api_, api_.get_output(context_, index, shape.sizes.data(), shape.rank, &value));
    if (value == nullptr) throw std::invalid_argument("output " + std::to_string(index) + " is missing");
    output = data_of(value);
    cpu::prefer_large_pages(output, shape.count() * sizeof(float));
  }

  // Allocates scratch memory, or returns null for 0 floats. May be called once per call.
  float* scratch(std::size_t floats) {
    if (floats == 0) return nullptr;
    Allocator* allocator = nullptr;
    check(api_, api_.get_allocator(context_, memory_.info(), &allocator));
    allocator_ = {allocator, api_.release_allocator};
    check(api_, api_.allocator_alloc(allocator, floats * sizeof(float), &scratch_));
    if (scratch_ == nullptr) throw std::bad_alloc();
    cpu::prefer_large_pages(scratch_, floats * sizeof(float));
    return static_cast<float*>(scratch_);
  }

  // Runs pieces on the threads of the session. An exception of a piece must not reach ONNX Runtime's threads, which
  // could not unwind it: it is thrown when all threads are done, and the pieces left are skipped.
  void run(std::size_t count, const Piece& piece) const {
    Work work{piece, {}, {}};
    check(api_, api_.parallel_for(context_, Work::run, count, 0, &work));
    if (work.error != nullptr) std::rethrow_exception(work.error);
  }

  ParallelFor threads() const {
    return [this](std::size_t count, const Piece& piece) { run(count, piece); };
  }

  const float* input = nullptr;
  const float* added = nullptr;
  float* output = nullptr;

 private:
  struct Work {
    const Piece& piece;
    std::atomic<bool> failed;
    std::exception_ptr error;  // Of the first piece that failed. Read when all threads are done.

    static void run(void* data, std::size_t index) noexcept {
      Work& work = *static_cast<Work*>(data);
      if (work.failed.load(std::memory_order_relaxed)) return;
      try {
        work.piece(index);
      } catch (...) {
        if (!work.failed.exchange(true)) work.error = std::current_exception();
      }
    }
  };

  // Returns an input, or null if it is missing.
  const Value* tensor(std::size_t index) const {
    const Value* value = nullptr;
    check(api_, api_.get_input(context_, index, &value));
    return value;
  }

  Shape shape_of(const Value* value) const {
    ShapeInfo* info = nullptr;
    check(api_, api_.get_shape_info(value, &info));
    const std::unique_ptr<ShapeInfo, void (*)(ShapeInfo*)> released(info, api_.release_shape_info);
    Shape shape;
    check(api_, api_.get_dimensions_count(info, &shape.rank));
    if (shape.rank <= shape.sizes.size()) check(api_, api_.get_dimensions(info, shape.sizes.data(), shape.rank));
    return shape;
  }

  float* data_of(const Value* value) const {
    void* data = nullptr;  // Before 1.23, ONNX Runtime has no function for constant data.
    check(api_, api_.get_tensor_data(const_cast<Value*>(value), &data));
    return static_cast<float*>(data);
  }

  static Image image_of(const Shape& shape, Layout layout, int channels) {
    const bool planar = layout == Layout::kPlanar;
    const int64_t planes = channels == 0 ? 0 : planar ? channels : blocks_of(channels);
    const int64_t most = planar ? kMaxChannels : kMaxChannels / kBlock;
    bool fits = planar ? shape.rank == 4 : shape.rank == 5 && shape[4] == kBlock;
    fits = fits && (planes == 0 ? shape[1] >= 1 && shape[1] <= most : shape[1] == planes);
    fits = fits && pixels_fit(shape[0], shape[2], shape[3]);
    if (!fits) {
      const std::string name = planes != 0 ? std::to_string(planes) : planar ? "C" : "C / 16";
      throw std::invalid_argument("the input must be (N, " + name + (planar ? ", H, W)" : ", H, W, 16)") +
                                  " with at most 2147483647 pixels, got " + shape.text() + kOpenDirect);
    }
    const int found = static_cast<int>(planar ? shape[1] : shape[1] * kBlock);
    return {layout, static_cast<int>(shape[0]), channels == 0 ? found : channels, static_cast<int>(shape[2]),
            static_cast<int>(shape[3])};
  }

  const Api& api_;
  const ScratchMemory& memory_;
  KernelContext* context_;
  std::unique_ptr<Allocator, void (*)(Allocator*)> allocator_{nullptr, nullptr};
  void* scratch_ = nullptr;
};

}  // namespace retinasdk::ort
