// The vectors of the 8-bit convolutions: sixteen sums, and 64 bytes. Each instruction set has a file of its own.
// Everything is in unnamed namespaces, because a program contains versions for several instruction sets.
#pragma once

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define RETINASDK_INT8_AVX512 1
#elif defined(__AVX2__) && defined(__FMA__)
#define RETINASDK_INT8_AVX2 1
#elif defined(__ARM_FEATURE_DOTPROD)
#define RETINASDK_INT8_NEON 1
#endif

// Plain C++ is for tests, see is_fast() in quantized_graph.py. Unrolled, it would take half a minute to compile.
#if defined(RETINASDK_INT8_AVX512) || defined(RETINASDK_INT8_AVX2) || defined(RETINASDK_INT8_NEON)
#define RETINASDK_INT8_UNROLL _Pragma("GCC unroll 16")
#define RETINASDK_INT8_INLINE inline __attribute__((always_inline))
#else
#define RETINASDK_INT8_UNROLL
#define RETINASDK_INT8_INLINE inline
#endif

#if defined(RETINASDK_INT8_AVX512)
#include "convolution/int8_vec_avx512.h"
#elif defined(RETINASDK_INT8_AVX2)
#include "convolution/int8_vec_avx2.h"
#elif defined(RETINASDK_INT8_NEON)
#include "convolution/int8_vec_neon.h"
#else
#include "convolution/int8_vec_plain.h"
#endif
