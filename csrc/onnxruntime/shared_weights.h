// Weights that nodes and sessions share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <tuple>

#include "onnxruntime/lent_weights.h"

namespace retinasdk::ort {

// The known weights of one type. `Weights` has `values`, an array, and count(), the number of values. `Form` is what it
// was made with besides the values: the shape, and what else decides on the order.
template <typename Weights, typename Form>
class KnownWeights {
 public:
  static KnownWeights& all() {
    static KnownWeights only;
    return only;
  }

  // Returns what was made from a lent tensor before, or null.
  std::shared_ptr<const Weights> made_from(int64_t lent_key, const Form& form) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = known_.find(Key{Origin::kKey, static_cast<uint64_t>(lent_key), form});
    return found == known_.end() ? nullptr : found->second.lock();
  }

  // Returns the known copy of the same values, or else `made`, which is known from now on.
  std::shared_ptr<const Weights> shared(std::shared_ptr<const Weights> made, uint64_t hash, int64_t lent_key,
                                        const Form& form) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto entry = known_.begin(); entry != known_.end();) {
      entry = entry->second.expired() ? known_.erase(entry) : std::next(entry);
    }
    std::weak_ptr<const Weights>& place = known_[Key{Origin::kHash, hash, form}];
    const std::shared_ptr<const Weights> found = place.lock();
    if (found == nullptr) {
      place = made;
    } else if (are_equal(*found, *made)) {
      made = found;
    }
    known_[Key{Origin::kKey, static_cast<uint64_t>(lent_key), form}] = made;
    return made;
  }

 private:
  enum class Origin { kKey, kHash };
  using Key = std::tuple<Origin, uint64_t, Form>;

  static bool are_equal(const Weights& one, const Weights& other) {
    const std::size_t bytes = one.count() * sizeof(one.values[0]);
    return one.count() == other.count() && std::memcmp(&one.values[0], &other.values[0], bytes) == 0;
  }

  std::mutex mutex_;
  std::map<Key, std::weak_ptr<const Weights>> known_;
};

// Returns Weights(tensor.data, form...). Nodes and sessions with equal weights of one form share one copy: the levels
// of a head, for example.
//
// Note: The hash only finds the copy, and decides nothing
//
//     Weights of two models can have one hash, by chance or on purpose. So weights with another key are always
//     transformed, and the known copy is shared only if it has the very same bytes. The originals are not kept, so they
//     cannot be compared; weights whose transformed values agree bit for bit give the same results. Where a hash is
//     taken already, the new weights are not shared. A key stands for one tensor, which does not change while it is
//     lent, and is never given twice.
template <typename Weights, typename Hash = std::hash<std::string_view>, typename... Form>
std::shared_ptr<const Weights> shared_weights(const LentTensor& tensor, Form... form) {
  auto& known = KnownWeights<Weights, std::tuple<Form...>>::all();
  const std::tuple<Form...> key(form...);
  if (auto found = known.made_from(tensor.key, key)) return found;
  const std::string_view content(reinterpret_cast<const char*>(tensor.data), tensor.count * sizeof(float));
  return known.shared(std::make_shared<const Weights>(tensor.data, form...), Hash()(content), tensor.key, key);
}

}  // namespace retinasdk::ort
