// Exceptions of the runtime. Wrong arguments throw std::invalid_argument instead. The counterpart of
// retinasdk/errors.py.
#pragma once

#include <stdexcept>

namespace retinasdk::runtime {

// The base class of the exceptions below.
class RetinaSdkError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A library that is loaded at run time is missing. The message says how to install it.
class MissingDependencyError : public RetinaSdkError {
 public:
  using RetinaSdkError::RetinaSdkError;
};

// A model file or its spec cannot be read, is not supported, or the two do not match.
class ModelError : public RetinaSdkError {
 public:
  using RetinaSdkError::RetinaSdkError;
};

// The size of an image is not supported.
class ImageError : public RetinaSdkError {
 public:
  using RetinaSdkError::RetinaSdkError;
};

// The requested device is not available or failed.
class DeviceError : public RetinaSdkError {
 public:
  using RetinaSdkError::RetinaSdkError;
};

// A detector cannot be used any more, because its process was forked.
class ClosedError : public DeviceError {
 public:
  using DeviceError::DeviceError;
};

}  // namespace retinasdk::runtime
