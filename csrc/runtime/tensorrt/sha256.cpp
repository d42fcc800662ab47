#include "runtime/tensorrt/sha256.h"

#include <openssl/evp.h>

#include <array>
#include <stdexcept>

namespace retinasdk::runtime::trt {

std::string sha256(std::string_view bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1) {
    throw std::runtime_error("OpenSSL cannot compute a SHA-256");
  }
  std::string text;
  for (unsigned i = 0; i < size; ++i) {
    for (const int half : {digest[i] >> 4, digest[i] & 15}) text += "0123456789abcdef"[half];
  }
  return text;
}

}  // namespace retinasdk::runtime::trt
