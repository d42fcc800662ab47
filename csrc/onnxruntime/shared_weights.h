// Weights that nodes and sessions share.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <tuple>

namespace retinasdk::ort {

// Returns the transformed weights. Nodes and sessions with equal weights share one copy: the levels of a head, for
// example. `Weights` is WinogradWeights or PointwiseWeights, and weights are (out_channels, in_channels, taps).
//
// Note: The hash only finds the copy, and decides nothing
//
//     Weights of two models can have one hash, by chance or on purpose. So the weights are always transformed, and the
//     known copy is shared only if it has the very same bytes. The originals are not kept, so they cannot be compared;
//     weights whose transformed values agree bit for bit give the same results. Where a hash is taken already, the new
//     weights are not shared.
template <typename Weights, typename Hash = std::hash<std::string_view>>
std::shared_ptr<const Weights> shared_weights(const float* weights, int out_channels, int in_channels, int taps) {
  using Key = std::tuple<int, int, std::size_t>;
  static std::mutex mutex;
  static std::map<Key, std::weak_ptr<const Weights>> known;
  const auto size = [](int number) { return static_cast<std::size_t>(number); };
  const std::size_t count = size(out_channels) * size(in_channels) * size(taps);
  const std::string_view content(reinterpret_cast<const char*>(weights), count * sizeof(float));
  const Key key{out_channels, in_channels, Hash()(content)};
  auto made = std::make_shared<const Weights>(weights, out_channels, in_channels);
  const std::lock_guard<std::mutex> lock(mutex);
  const std::shared_ptr<const Weights> found = known[key].lock();
  if (found == nullptr) {
    known[key] = made;
    return made;
  }
  const bool equal = std::memcmp(found->values.get(), made->values.get(), made->count() * sizeof(float)) == 0;
  return equal ? found : made;
}

}  // namespace retinasdk::ort
