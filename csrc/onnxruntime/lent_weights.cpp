// The registry of the weights that are lent to the operators.
#include "onnxruntime/lent_weights.h"

#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>

namespace retinasdk::ort {
namespace {

constexpr std::size_t kMaxRank = 8;

struct Lent {
  const void* data;
  std::vector<int64_t> shape;
  std::size_t count;
};

struct Registry {
  std::shared_mutex mutex;
  std::map<int64_t, Lent> lent;
  int64_t next_key = 0;
};

Registry& registry() {
  static Registry only;
  return only;
}

int64_t random_key() {
  std::random_device device;
  return int64_t{device() & 0x3fffffff} << 32 | int64_t{device() & 0xffffffff};
}

// Returns the number of values, or 0 if there is none or it is too large for memory.
std::size_t count_of(const int64_t* shape, std::size_t rank) {
  std::size_t count = 1;
  for (std::size_t i = 0; i < rank; ++i) {
    if (shape[i] < 1 || static_cast<uint64_t>(shape[i]) > PTRDIFF_MAX / sizeof(float) / count) return 0;
    count *= static_cast<std::size_t>(shape[i]);
  }
  return count;
}

}  // namespace

LentTensors::LentTensors() : lock_(registry().mutex) {}

LentTensor LentTensors::find(int64_t key, const std::string& name) const {
  const std::map<int64_t, Lent>& lent = registry().lent;
  const auto found = lent.find(key);
  if (found == lent.end()) {
    throw std::invalid_argument(name + " must be the key of a lent tensor, got " + std::to_string(key) +
                                "; keys are valid only in the process that lends, while it makes the session");
  }
  LentTensor tensor;
  tensor.key = key;
  tensor.shape = found->second.shape;
  tensor.count = found->second.count;
  if (reinterpret_cast<std::uintptr_t>(found->second.data) % alignof(float) == 0) {
    tensor.data = static_cast<const float*>(found->second.data);
  } else {
    tensor.copy.resize(tensor.count);
    std::memcpy(tensor.copy.data(), found->second.data, tensor.count * sizeof(float));
    tensor.data = tensor.copy.data();
  }
  return tensor;
}

}  // namespace retinasdk::ort

int64_t retinasdk_lend(const void* data, const int64_t* shape, std::size_t rank) {
  using namespace retinasdk::ort;
  try {
    if (data == nullptr || shape == nullptr || rank < 1 || rank > kMaxRank) return 0;
    const std::size_t count = count_of(shape, rank);
    if (count == 0) return 0;
    Registry& all = registry();
    Lent lent{data, std::vector<int64_t>(shape, shape + rank), count};
    const std::lock_guard<std::shared_mutex> lock(all.mutex);
    if (all.next_key == 0) all.next_key = random_key();
    const int64_t key = ++all.next_key;
    all.lent.emplace(key, std::move(lent));
    return key;
  } catch (const std::exception&) {  // No memory, or no source of random numbers.
    return 0;
  }
}

void retinasdk_take_back(int64_t key) {
  using namespace retinasdk::ort;
  Registry& all = registry();
  const std::lock_guard<std::shared_mutex> lock(all.mutex);
  all.lent.erase(key);
}
