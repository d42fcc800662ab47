// The entry point of the library: makes the operators known to a session of ONNX Runtime.
#include <string>
#include <vector>

#include "onnxruntime/operators.h"
#include "onnxruntime/ort_op.h"

// SessionOptions.register_custom_ops_library() calls this function.
extern "C" RETINASDK_EXPORT retinasdk::ort::Status* RegisterCustomOps(retinasdk::ort::SessionOptions* options,
                                                                      const retinasdk::ort::ApiBase* base) {
  using namespace retinasdk::ort;
  const void* const* table = base->get_api(kApiVersion);
  if (table == nullptr) {  // Every runtime has version 1 of the API, which can create the status.
    const std::string message = std::string("retinasdk needs ONNX Runtime 1.17 or newer, got ") + base->get_version() +
                                "; run: pip install --upgrade onnxruntime";
    return Api{base->get_api(1)}.create_status(kFail, message.c_str());
  }
  const Api api{table};
  return guarded(api, "operators", [&] {
    // The operators live as long as the process, because sessions keep their addresses.
    static const std::vector<CustomOp> ops = [] {
      std::vector<CustomOp> all = float_operators();
      for (const CustomOp& op : quantized_operators()) all.push_back(op);
      return all;
    }();
    static CustomOpDomain* domain = [&] {
      CustomOpDomain* made = nullptr;
      check(api, api.create_custom_op_domain("retinasdk", &made));
      for (const CustomOp& op : ops) check(api, api.custom_op_domain_add(made, &op));
      return made;
    }();
    check(api, api.add_custom_op_domain(options, domain));
  });
}
