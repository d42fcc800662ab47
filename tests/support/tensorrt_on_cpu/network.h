// The network of the stand-in's engines, which ONNX Runtime computes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tensorrt_on_cpu {

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// Several threads may call a network at once.
class Network {
 public:
  virtual ~Network() = default;
  virtual Tensor run(int output, const Tensor& pixels) const = 0;

  std::vector<std::string> inputs, outputs;
  std::vector<bool> is_half;  // Of each input and then each output, in the graph.
};

// Loads an ONNX model. Throws std::exception.
std::unique_ptr<Network> load_network(const std::string& onnx);

}  // namespace tensorrt_on_cpu
