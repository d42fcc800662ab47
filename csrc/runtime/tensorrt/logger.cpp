#include "runtime/tensorrt/logger.h"

#include <algorithm>
#include <mutex>

namespace retinasdk::runtime::trt {
namespace {

std::mutex collectors_mutex;
std::vector<CollectedErrors*> collectors;  // Of the calls in progress, in the order in which they began.

}  // namespace

class ProcessLogger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const nvinfer1::AsciiChar* message) noexcept override {
    // Warnings report harmless things, one line for each layer, and the rest is for those who develop TensorRT.
    if (severity > Severity::kERROR) return;
    const std::lock_guard lock(collectors_mutex);
    const auto here = std::this_thread::get_id();
    const auto own = std::find_if(collectors.rbegin(), collectors.rend(),
                                  [here](const CollectedErrors* each) { return each->thread_ == here; });
    if (own != collectors.rend()) {
      (*own)->messages_.emplace_back(message);
      return;
    }
    for (CollectedErrors* each : collectors) each->messages_.emplace_back(message);
  }
};

nvinfer1::ILogger& process_logger() {
  static auto* const logger = new ProcessLogger;
  return *logger;
}

CollectedErrors::CollectedErrors() : thread_(std::this_thread::get_id()) {
  const std::lock_guard lock(collectors_mutex);
  collectors.push_back(this);
}

CollectedErrors::~CollectedErrors() {
  const std::lock_guard lock(collectors_mutex);
  collectors.erase(std::find(collectors.begin(), collectors.end(), this));
}

std::string CollectedErrors::reason(const std::string& otherwise) const {
  const std::lock_guard lock(collectors_mutex);
  const char* const space = " \t\r\v\f";
  for (const std::string& message : messages_) {
    for (size_t begin = 0; begin < message.size();) {
      const size_t end = std::min(message.find('\n', begin), message.size());
      std::string line = message.substr(begin, end - begin);
      begin = end + 1;
      line.erase(0, std::min(line.find_first_not_of(space), line.size()));
      line.erase(line.find_last_not_of(space) + 1);
      const bool says_no_gpu =
          line.find("cudaError") != std::string::npos || line.find("CUDA initialization") != std::string::npos;
      if (line.empty() || says_no_gpu) continue;
      return line.erase(line.find_last_not_of(".;") + 1);
    }
  }
  return otherwise;
}

}  // namespace retinasdk::runtime::trt
