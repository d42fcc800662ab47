// The part of TensorRT's runtime API that libretinasdk uses, under the same names, where NVIDIA's headers are missing.
//
// Beliefs, all CONFIRMED by compiling libretinasdk and the stand-in for the library against NVIDIA's own headers of
// 8.5.1 to 8.5.3, 8.6.1, 10.3.0, 10.13.3, 10.16, 11.0 and 11.1 (tests/native/checks/tensorrt_headers.py):
//
// - The names, arguments and results of these functions, and the numbers of the enumerations.
// - A class of the API holds a pointer to a class with the same functions as virtual ones, in namespace `apiv`.
// - Sides of `Dims` have 64 bits, as from version 10 on. Before they have 32.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#ifndef NV_TENSORRT_MAJOR
#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_MINOR 3
#define NV_TENSORRT_PATCH 0
#endif
#define NV_TENSORRT_VERSION (NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH)

namespace nvinfer1 {

using AsciiChar = char;

struct Dims {
  int32_t nbDims;
  int64_t d[8];
};

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5 };
enum class TensorFormat : int32_t { kLINEAR = 0, kCHW2 = 1, kHWC8 = 2, kHWC = 8 };
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class ExecutionContextAllocationStrategy : int32_t { kSTATIC = 0 };

class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
  virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
  virtual ~ILogger() = default;
};

class ICudaEngine;
class IExecutionContext;

namespace apiv {

class VRoot {
 public:
  virtual ~VRoot() noexcept = default;
};

class VRuntime : public VRoot {
 public:
  virtual nvinfer1::ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept = 0;
};

class VCudaEngine : public VRoot {
 public:
  virtual IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept = 0;
  virtual int32_t getNbIOTensors() const noexcept = 0;
  virtual char const* getIOTensorName(int32_t index) const noexcept = 0;
  virtual DataType getTensorDataType(char const* tensorName) const noexcept = 0;
  virtual TensorIOMode getTensorIOMode(char const* tensorName) const noexcept = 0;
  virtual TensorFormat getTensorFormat(char const* tensorName) const noexcept = 0;
  virtual int32_t getTensorVectorizedDim(char const* tensorName) const noexcept = 0;
  virtual int32_t getTensorComponentsPerElement(char const* tensorName) const noexcept = 0;
};

class VExecutionContext : public VRoot {
 public:
  virtual int32_t getOptimizationProfile() const noexcept = 0;
  virtual bool setInputShape(char const* tensorName, Dims const& dims) noexcept = 0;
  virtual Dims getTensorShape(char const* tensorName) const noexcept = 0;
  virtual Dims getTensorStrides(char const* tensorName) const noexcept = 0;
  virtual bool setTensorAddress(char const* tensorName, void* data) noexcept = 0;
  virtual bool enqueueV3(cudaStream_t stream) noexcept = 0;
};

}  // namespace apiv

class INoCopy {
 public:
  INoCopy(INoCopy const&) = delete;
  INoCopy& operator=(INoCopy const&) = delete;

 protected:
  INoCopy() = default;
  virtual ~INoCopy() = default;
};

class IExecutionContext : public INoCopy {
 public:
  ~IExecutionContext() noexcept override = default;
  int32_t getOptimizationProfile() const noexcept { return mImpl->getOptimizationProfile(); }
  bool setInputShape(char const* name, Dims const& dims) noexcept { return mImpl->setInputShape(name, dims); }
  Dims getTensorShape(char const* name) const noexcept { return mImpl->getTensorShape(name); }
  Dims getTensorStrides(char const* name) const noexcept { return mImpl->getTensorStrides(name); }
  bool setTensorAddress(char const* name, void* data) noexcept { return mImpl->setTensorAddress(name, data); }
  bool enqueueV3(cudaStream_t stream) noexcept { return mImpl->enqueueV3(stream); }

 protected:
  apiv::VExecutionContext* mImpl = nullptr;
};

class ICudaEngine : public INoCopy {
 public:
  ~ICudaEngine() noexcept override = default;
  IExecutionContext* createExecutionContext() noexcept {
    return mImpl->createExecutionContext(ExecutionContextAllocationStrategy::kSTATIC);
  }
  int32_t getNbIOTensors() const noexcept { return mImpl->getNbIOTensors(); }
  char const* getIOTensorName(int32_t index) const noexcept { return mImpl->getIOTensorName(index); }
  DataType getTensorDataType(char const* name) const noexcept { return mImpl->getTensorDataType(name); }
  TensorIOMode getTensorIOMode(char const* name) const noexcept { return mImpl->getTensorIOMode(name); }
  TensorFormat getTensorFormat(char const* name) const noexcept { return mImpl->getTensorFormat(name); }
  int32_t getTensorVectorizedDim(char const* name) const noexcept { return mImpl->getTensorVectorizedDim(name); }
  int32_t getTensorComponentsPerElement(char const* name) const noexcept {
    return mImpl->getTensorComponentsPerElement(name);
  }

 protected:
  apiv::VCudaEngine* mImpl = nullptr;
};

class IRuntime : public INoCopy {
 public:
  ~IRuntime() noexcept override = default;
  ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
    return mImpl->deserializeCudaEngine(blob, size);
  }

 protected:
  apiv::VRuntime* mImpl = nullptr;
};

}  // namespace nvinfer1

extern "C" int32_t getInferLibVersion() noexcept;
extern "C" void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept;

namespace nvinfer1 {

inline IRuntime* createInferRuntime(ILogger& logger) noexcept {
  return static_cast<IRuntime*>(createInferRuntime_INTERNAL(&logger, NV_TENSORRT_VERSION));
}

}  // namespace nvinfer1
