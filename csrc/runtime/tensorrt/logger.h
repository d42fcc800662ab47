// TensorRT's log: its functions give null or false on failure, and the reason is only in the log.
#pragma once

#include <string>
#include <thread>
#include <vector>

#include "runtime/tensorrt/versions.h"

namespace retinasdk::runtime::trt {

// The logger of the process. It is never destroyed, because TensorRT keeps a pointer to it; and there is one, because
// TensorRT ignores every further one.
nvinfer1::ILogger& process_logger();

// Collects the errors that TensorRT reports from the calling thread while the object lives. The innermost object of a
// thread gets them. Errors of TensorRT's own threads may belong to any call in progress, so all of them get those.
class CollectedErrors {
 public:
  CollectedErrors();
  ~CollectedErrors();
  CollectedErrors(const CollectedErrors&) = delete;
  CollectedErrors& operator=(const CollectedErrors&) = delete;

  // The first useful error as one line without punctuation at its end, or `otherwise`. Errors that only say that there
  // is no GPU do not count.
  std::string reason(const std::string& otherwise = "it gives no reason") const;

 private:
  friend class ProcessLogger;
  std::thread::id thread_;
  std::vector<std::string> messages_;
};

}  // namespace retinasdk::runtime::trt
