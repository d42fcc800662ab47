// The network of the stand-in's engines: a table of inputs and the heads that ONNX Runtime computed for them in Python
// (recorded_engine.py). An input that differs in one bit from every recorded one ends the process. So the preprocessing
// kernels are tested too, and the sanitizers see no code of ONNX Runtime.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tensorrt_on_cpu {

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

class Network {
 public:
  // plan: the engine from its description on.
  Network(const std::string& description, const std::string& values);

  const std::vector<std::string>& inputs() const { return inputs_; }
  const std::vector<std::string>& outputs() const { return outputs_; }
  // The shape of each output for the shape of an input, which must have been recorded.
  std::vector<std::vector<int64_t>> output_shapes(const std::vector<int64_t>& input) const;
  // Each output for an input that was recorded.
  const std::vector<Tensor>& run(const Tensor& pixels) const;

 private:
  struct Entry {
    std::vector<int64_t> shape;
    std::string sha256;  // Of the values of the input as float32.
    std::vector<Tensor> outputs;
  };
  std::vector<std::string> inputs_, outputs_;
  std::vector<Entry> entries_;
};

}  // namespace tensorrt_on_cpu
