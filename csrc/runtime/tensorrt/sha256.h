// SHA-256, for the checksums of engines.
#pragma once

#include <string>
#include <string_view>

namespace retinasdk::runtime::trt {

// Returns the digest as hexadecimal text in lower case.
std::string sha256(std::string_view bytes);

}  // namespace retinasdk::runtime::trt
