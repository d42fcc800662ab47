#include "runtime/ort_library.h"

#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "runtime/errors.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace retinasdk::runtime {
namespace {

#if defined(_WIN32)
const std::vector<std::string> kNames = {"onnxruntime.dll"};
#elif defined(__APPLE__)
const std::vector<std::string> kNames = {"libonnxruntime.dylib", "libonnxruntime.1.dylib"};
#else
const std::vector<std::string> kNames = {"libonnxruntime.so.1", "libonnxruntime.so"};
#endif

constexpr const char* kCure =
    "Install ONNX Runtime 1.17 or newer, which its releases and the packages of several systems have as "
    "libonnxruntime, or set RETINASDK_ONNXRUNTIME to the path of the library. Python's package has it too: "
    "pip install onnxruntime; ls $(python -c 'import onnxruntime; "
    "print(onnxruntime.__path__[0])')/capi/libonnxruntime*";

using GetApiBase = const ort::ApiBase* (*)();

// Loads a library and returns OrtGetApiBase() of it. Null: `why` has the reason.
GetApiBase load(const std::string& name, std::string& why) {
#ifdef _WIN32
  const HMODULE handle = LoadLibraryA(name.c_str());
  if (handle == nullptr) {
    why = name + ": error " + std::to_string(GetLastError());
    return nullptr;
  }
  void* symbol = reinterpret_cast<void*>(GetProcAddress(handle, "OrtGetApiBase"));
#else
  void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    why = dlerror();
    return nullptr;
  }
  void* symbol = dlsym(handle, "OrtGetApiBase");
#endif
  if (symbol == nullptr) why = name + " is not ONNX Runtime: it has no function OrtGetApiBase";
  return reinterpret_cast<GetApiBase>(symbol);
}

// Turns ONNX Runtime's telemetry off, unless the user's environment says otherwise. It starts when the library is
// loaded: it looks up a host of its maker, and leaves a file in the temporary folder.
void disable_telemetry() {
#ifdef _WIN32
  if (std::getenv("ORT_DISABLE_TELEMETRY") == nullptr) _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
#endif
}

OrtLibrary open(const std::vector<std::string>& names) {
  disable_telemetry();
  std::string reasons;
  for (const std::string& name : names) {
    std::string why;
    const GetApiBase get_base = load(name, why);
    if (get_base == nullptr) {
      reasons += (reasons.empty() ? "" : "; ") + why;
      continue;
    }
    const ort::ApiBase* base = get_base();
    const void* const* table = base->get_api(ort::kApiVersion);
    if (table == nullptr) {
      throw MissingDependencyError(std::string("retinasdk needs ONNX Runtime 1.17 or newer, got ") +
                                   base->get_version() + " in " + name + ". " + kCure);
    }
    OrtLibrary library{ort::SessionApi{table}, nullptr};
    library.check(library.api.create_env(ort::kErrorSeverity, "retinasdk", &library.env));
    return library;
  }
  throw MissingDependencyError("running ONNX models on the CPU needs ONNX Runtime, which cannot be loaded (" + reasons +
                               "). " + kCure);
}

}  // namespace

void OrtLibrary::check(ort::Status* status) const {
  if (status == nullptr) return;
  constexpr std::array<const char*, 12> kCodes = {"SUCCESS",           "FAIL",
                                                  "INVALID_ARGUMENT",  "NO_SUCHFILE",
                                                  "NO_MODEL",          "ENGINE_ERROR",
                                                  "RUNTIME_EXCEPTION", "INVALID_PROTOBUF",
                                                  "MODEL_LOADED",      "NOT_IMPLEMENTED",
                                                  "INVALID_GRAPH",     "EP_FAIL"};
  const auto code = static_cast<size_t>(api.get_error_code(status));
  std::string message = "[ONNXRuntimeError] : " + std::to_string(code) + " : " +
                        (code < kCodes.size() ? kCodes[code] : "GENERAL ERROR") + " : " + api.get_error_message(status);
  api.release_status(status);
  throw std::runtime_error(message.substr(0, message.find('\n')));
}

const OrtLibrary& ort_library(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, OrtLibrary>& loaded = *new std::map<std::string, OrtLibrary>;  // Outlives all threads.
  const char* wanted = path.empty() ? std::getenv("RETINASDK_ONNXRUNTIME") : path.c_str();
  const std::string name = wanted == nullptr ? "" : wanted;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = loaded.find(name);
  if (found != loaded.end()) return found->second;
  return loaded.emplace(name, open(name.empty() ? kNames : std::vector<std::string>{name})).first->second;
}

}  // namespace retinasdk::runtime
