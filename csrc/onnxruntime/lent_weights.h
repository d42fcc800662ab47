// Weights that a program lends to the operators while it makes a session.
//
// Note: Lent weights
//
//     If weights were inputs of the operators, ONNX Runtime would keep a copy of them beside the transformed ones. So
//     they are not in the graph: the program lends them here, and the operators' attributes hold the keys. While a
//     session is made, its operators look the keys up and copy what they need; then the program takes the weights back.
//     The first key of a process is random, so that keys of another process, in a stored graph, are unknown.
#pragma once

#include <cstddef>
#include <cstdint>
#include <shared_mutex>
#include <string>
#include <vector>

namespace retinasdk::ort {

struct LentTensor {
  LentTensor() = default;
  LentTensor(LentTensor&&) = default;  // A copy would point to the memory of the original.
  LentTensor& operator=(LentTensor&&) = default;

  int64_t key = 0;
  std::vector<int64_t> shape;  // All sizes are positive.
  std::size_t count = 0;       // Number of values.
  const float* data = nullptr;
  std::vector<float> copy;  // What `data` points to, if the lent memory is not aligned for floats.
};

// Access to the lent tensors. As long as one of these objects lives, taking back waits: so the data stays valid. A
// thread must not make two at once.
class LentTensors {
 public:
  LentTensors();

  // Throws std::invalid_argument if nothing is lent by this key. `name` is that of the attribute.
  LentTensor find(int64_t key, const std::string& name) const;

 private:
  std::shared_lock<std::shared_mutex> lock_;
};

}  // namespace retinasdk::ort

#ifdef _WIN32
#define RETINASDK_EXPORT __declspec(dllexport)
#else
#define RETINASDK_EXPORT __attribute__((visibility("default")))
#endif

// Lends a tensor of float32 in native byte order, of any alignment. It must not change, and must live, until it is
// taken back. Returns its key, or 0 if a size is not positive, the rank is not 1 to 8, or no memory is left.
extern "C" RETINASDK_EXPORT int64_t retinasdk_lend(const void* data, const int64_t* shape, std::size_t rank);

// Takes a tensor back. Waits for the operators that read it. Unknown keys are ignored.
extern "C" RETINASDK_EXPORT void retinasdk_take_back(int64_t key);
