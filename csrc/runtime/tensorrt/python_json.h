// JSON text as Python's json.dumps(value, sort_keys=True) writes it, over which the checksum of an engine's JSON goes.
#pragma once

#include <string>

#include "runtime/json_text.h"

namespace retinasdk::runtime::trt {

std::string as_python_writes(const JsonValue& value);

}  // namespace retinasdk::runtime::trt
