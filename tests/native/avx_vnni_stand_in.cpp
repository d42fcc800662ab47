// The kernels for AVX-VNNI without its instruction, which few processors have. The belief: as Intel's manual says, it
// adds to each sum four products of unsigned with signed bytes, and does not limit them.
#include <immintrin.h>

#include <cstdint>

namespace {

__m256i dpbusd(__m256i sums, __m256i codes, __m256i weights) {
  alignas(32) int32_t sum[8];
  alignas(32) uint8_t code[32];
  alignas(32) int8_t weight[32];
  _mm256_store_si256(reinterpret_cast<__m256i*>(sum), sums);
  _mm256_store_si256(reinterpret_cast<__m256i*>(code), codes);
  _mm256_store_si256(reinterpret_cast<__m256i*>(weight), weights);
  for (int i = 0; i < 32; ++i) {
    const int product = code[i] * weight[i];
    sum[i / 4] = static_cast<int32_t>(static_cast<uint32_t>(sum[i / 4]) + static_cast<uint32_t>(product));
  }
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(sum));
}

}  // namespace

#define RETINASDK_INT8_DPBUSD dpbusd
#include "convolution/int8_kernels_avx_vnni.cpp"
