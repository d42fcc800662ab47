// What the processor can do, on x86-64. Not __builtin_cpu_supports: with Zig, whose compiler builds the wheels, it
// always answers no.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

namespace retinasdk::cpu {

struct Features {
  bool avx2 = false, fma = false, bmi = false;
};

// Asks the processor. AVX2 and FMA also need an operating system that saves the wide registers.
inline Features features() {
  Features found;
  unsigned int a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return found;  // uncovered: a processor without it
  const bool fma = (c & (1u << 12)) != 0;
  const bool avx_and_xgetbv = (c & (1u << 27)) != 0 && (c & (1u << 28)) != 0;  // uncovered: a machine without AVX
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return found;              // uncovered: a processor without it
  found.bmi = (b & (1u << 3)) != 0;
  if (!avx_and_xgetbv) return found;  // uncovered: a machine without AVX
  unsigned int saved = 0, saved_high = 0;
  __asm__("xgetbv" : "=a"(saved), "=d"(saved_high) : "c"(0));
  if ((saved & 6) != 6) return found;  // uncovered: an operating system without AVX
  found.fma = fma;
  found.avx2 = (b & (1u << 5)) != 0;
  return found;
}

}  // namespace retinasdk::cpu
#endif
