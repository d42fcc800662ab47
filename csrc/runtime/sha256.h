// SHA-256 of model files and engines, by OpenSSL.
#pragma once

#include <openssl/evp.h>

#include <memory>
#include <string>
#include <string_view>

namespace retinasdk::runtime {

// The digest of bytes that arrive in parts. Every function throws std::runtime_error if OpenSSL fails.
class Sha256 {
 public:
  Sha256();
  void update(std::string_view bytes);
  // Returns the digest as hexadecimal text in lower case. It can be called once.
  std::string hexadecimal();

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

// Returns the digest of bytes as hexadecimal text in lower case.
std::string sha256(std::string_view bytes);

}  // namespace retinasdk::runtime
