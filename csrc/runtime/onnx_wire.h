// Reads the outermost structure of ONNX files as protocol buffers. The counterpart of retinasdk/_util/onnx_wire.py,
// onnx_files.py and onnx_functions.py, which explain what is read and why.
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

namespace retinasdk::runtime {

// Bytes are not an ONNX file.
class WireError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The functions of a model cannot be replaced by their nodes.
class FunctionsError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Checks that the functions of a model stand for as many nodes as a network has, at most: functions that call each
// other can stand for any number, and ONNX Runtime replaces all calls without counting.
//
// Throws FunctionsError, and WireError if the bytes are not an ONNX file.
void check_functions(std::string_view model);

// Returns the SHA-256 of a model as hexadecimal text: of the ONNX file, followed by those of its external data in the
// order of their names. Throws std::runtime_error if a file cannot be read.
std::string model_sha256(const std::filesystem::path& path);

// Returns the content of a file. Throws std::runtime_error if it cannot be read.
std::string read_file(const std::filesystem::path& path);

}  // namespace retinasdk::runtime
