// Conversions between the stored numbers and those that cpu.cpp computes with.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

// --- a parameter is stored as P; the arithmetic is in Wide<P> ------------------------------------

struct BFloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

template <class P> struct WideOf { using type = float; };
template <> struct WideOf<double> { using type = double; };
template <class P> using Wide = typename WideOf<P>::type;

template <class To, class From> INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

INLINE float widen(float x) { return x; }
INLINE double widen(double x) { return x; }
INLINE float widen(BFloat16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }
INLINE float widen(Float16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = uint32_t(x.bits & 0x7fff) << 13;
  const uint32_t normal = rest + ((rest < 0x0f800000 ? 112u : 224u) << 23);  // 224: inf and NaN
  const float subnormal = bit_cast<float>(rest + (113u << 23)) - bit_cast<float>(113u << 23);
  return bit_cast<float>(sign | (rest < 0x00800000 ? bit_cast<uint32_t>(subnormal) : normal));
}

// Round to the nearest, ties to even.
template <class P> INLINE P narrow(Wide<P> x) { return x; }
template <> INLINE BFloat16 narrow<BFloat16>(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return {uint16_t(x != x ? 0x7fc0 : rounded)};
}
template <> INLINE Float16 narrow<Float16>(float x) {
  const uint32_t sign = bit_cast<uint32_t>(x) & 0x80000000u, rest = bit_cast<uint32_t>(x) ^ sign;
  const uint32_t normal = (rest - (112u << 23) + 0xfff + ((rest >> 13) & 1)) >> 13;
  // Floats just above 0.5 have the spacing of subnormal float16, so the sum is rounded to it.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(rest) + 0.5f) - (126u << 23);
  const uint32_t special = rest > (255u << 23) ? 0x7e00 : 0x7c00;
  const uint32_t finite = rest < (113u << 23) ? subnormal : normal;
  return {uint16_t((rest >= (143u << 23) ? special : finite) | sign >> 16)};
}

template <bool Fma> INLINE float muladd(float a, float b, float c) {
  if constexpr (Fma) return __builtin_fmaf(a, b, c);
  return a * b + c;
}
template <bool Fma> INLINE double muladd(double a, double b, double c) {
  if constexpr (Fma) return __builtin_fma(a, b, c);
  return a * b + c;
}

// A hash of two 32-bit numbers whose bits are evenly distributed, for rounding at random.
INLINE uint32_t hashed(uint32_t seed, uint32_t at) {
  uint32_t x = at * 0x9e3779b9u + seed;
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// Round to one of the two neighbours without bias: add 16 random bits, then cut off the lower 16.
INLINE BFloat16 round_at_random(float x, uint32_t noise) {
  const uint32_t bits = bit_cast<uint32_t>(x), special = 0x7f800000u;
  const uint16_t rounded = uint16_t((bits + (noise & 0xffffu)) >> 16);
  return {(bits & special) == special ? narrow<BFloat16>(x).bits : rounded};
}

// Averages are stored as Wide<P>, or with state_dtype as bfloat16.
INLINE float stored(float x, float, uint32_t) { return x; }
INLINE double stored(double x, double, uint32_t) { return x; }
INLINE BFloat16 stored(float x, BFloat16, uint32_t noise) { return round_at_random(x, noise); }

}  // namespace
