// What the processor can do, on x86-64 and on ARM64 with Linux. Not __builtin_cpu_supports: with Zig, whose compiler
// builds the wheels, it always answers no.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

namespace retinasdk::cpu {

struct Features {
  bool avx2 = false, fma = false, bmi = false;
  bool avx512 = false;       // F, BW, DQ and VL.
  bool avx512_vnni = false;  // Also the products of 8-bit numbers.
  bool avx_vnni = false;     // These products in the registers of AVX2.
};

// Asks the processor. AVX2 and FMA also need an operating system that saves the wide registers.
inline Features features() {
  Features found;
  unsigned int a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return found;  // uncovered: a processor without it
  const bool fma = (c & (1u << 12)) != 0;
  const bool avx_and_xgetbv = (c & (1u << 27)) != 0 && (c & (1u << 28)) != 0;  // uncovered: a machine without AVX
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return found;              // uncovered: a processor without it
  const unsigned int leaves = a;
  found.bmi = (b & (1u << 3)) != 0;
  if (!avx_and_xgetbv) return found;  // uncovered: a machine without AVX
  unsigned int saved = 0, saved_high = 0;
  __asm__("xgetbv" : "=a"(saved), "=d"(saved_high) : "c"(0));
  if ((saved & 6) != 6) return found;  // uncovered: an operating system without AVX
  found.fma = fma;
  found.avx2 = (b & (1u << 5)) != 0;
  // F, DQ, BW and VL, and an operating system that saves the mask and the upper registers.
  constexpr unsigned int kAvx512 = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
  found.avx512 = (b & kAvx512) == kAvx512 && (saved & 0xE6) == 0xE6;  // uncovered: the other kind of processor
  found.avx512_vnni = found.avx512 && (c & (1u << 11)) != 0;          // uncovered: the other kind of processor
  if (leaves < 1 || __get_cpuid_count(7, 1, &a, &b, &c, &d) == 0) return found;  // uncovered: another processor
  found.avx_vnni = (a & (1u << 4)) != 0;
  return found;
}

}  // namespace retinasdk::cpu
#endif

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

namespace retinasdk::cpu {

// Whether the processor has the dot products of bytes of ARMv8.2.
inline bool has_dot_product() { return (getauxval(AT_HWCAP) & (1ul << 20)) != 0; }

}  // namespace retinasdk::cpu
#endif
