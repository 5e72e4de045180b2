// One step of LaProp in one pass over memory, for all tensors of a param group at once.
//
// A plain C interface, which cpu.py calls through ctypes: nothing here knows torch or Python, so
// one build serves every version of both. Threads are torch's, through the function that cpu.py
// hands over (torch_parallel_for of torch's stable C interface).
//
// The order of operations is that of _single_tensor_laprop, and each operation is rounded as
// ATen's kernels round it (that is, with a fused multiply-add where they have one). What no root
// enters has the same bits therefore; ATen's root, MKL's, is not always correctly rounded. The
// file is to be compiled with -ffp-contract=off.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__GNUC__) && !defined(_WIN32)
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif
#define INLINE inline __attribute__((always_inline))
#define EXPORT extern "C" __attribute__((visibility("default")))
#else
#error "no function multi-versioning here: the package works without this kernel"
#endif

namespace {

// --- numbers: a parameter is stored as P, and computed with as Wide<P> ---------------------------

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

// To the nearest, ties to even.
template <class P> INLINE P narrow(Wide<P> x) { return x; }
template <> INLINE BFloat16 narrow<BFloat16>(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return {uint16_t(x != x ? 0x7fc0 : rounded)};
}
template <> INLINE Float16 narrow<Float16>(float x) {
  const uint32_t sign = bit_cast<uint32_t>(x) & 0x80000000u, rest = bit_cast<uint32_t>(x) ^ sign;
  const uint32_t normal = (rest - (112u << 23) + 0xfff + ((rest >> 13) & 1)) >> 13;
  // The spacing of floats at 0.5 is that of subnormal halves: the sum is rounded to it.
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

// --- what cpu.py hands over ----------------------------------------------------------------------

struct Row;
using Update = void (*)(const Row&, const void* grad, int64_t begin, int64_t end);

// One parameter. The same layout as Row in cpu.py; what is not in use is null.
struct Row {
  void *param, *exp_avg, *exp_avg_sq, *max_exp_avg_sq, *exp_avg_grad, *master;
  void* step;
  double *exp_avg_weight, *exp_avg_sq_weight;
  int64_t first, numel;  // first: elements in the rows before
  int32_t dtype, wide_step;  // an index of DTYPES; whether step is float64
  // Set by laprop_step: the scalars of this step.
  double nu, gain, keep, correction, eps, scale, decay, sign;
  int64_t centers;  // whether exp_avg_grad is subtracted, or only kept for later
  Update update;
};

enum Flag { kAmsgrad = 1, kCentered = 2, kDecayByLr = 4, kEpsInSqrt = 8, kLrWeighted = 16, kMaximize = 32 };

// --- the pass ------------------------------------------------------------------------------------

template <bool Fma, class P, bool Master, bool Max, bool Mean, bool EpsInSqrt>
INLINE void update(const Row& row, const void* grad_, int64_t begin, int64_t end) {
  using T = Wide<P>;
  P* __restrict const param = static_cast<P*>(row.param);
  const P* __restrict const grad = static_cast<const P*>(grad_);
  T* __restrict const exp_avg = static_cast<T*>(row.exp_avg);
  T* __restrict const exp_avg_sq = static_cast<T*>(row.exp_avg_sq);
  T* __restrict const maximum = static_cast<T*>(row.max_exp_avg_sq);
  T* __restrict const mean = static_cast<T*>(row.exp_avg_grad);
  T* __restrict const master = static_cast<T*>(row.master);
  const T nu = T(row.nu), complement = T(1 - row.nu), keep = T(row.keep), gain = T(row.gain);
  const T correction = T(row.correction), eps = T(row.eps), decay = T(row.decay);
  const T sign = T(row.sign), minus_scale = T(-row.scale);
  const T floor = T(std::sqrt(double(std::numeric_limits<T>::min())));
  const bool centers = row.centers;
  const bool moves = row.scale != 0;  // not by a product: 0 * inf

  INDEPENDENT
  for (int64_t i = begin; i < end; ++i) {
    const T g = widen(grad[i]) * sign;
    const T n = exp_avg_sq[i] = muladd<Fma>(complement * g, g, exp_avg_sq[i] * nu);
    T second = n;
    if constexpr (Mean) {
      const T average = mean[i] = muladd<Fma>(g, complement, mean[i] * nu);
      const T center = centers ? average : T(0), variance = n - center * center;
      second = variance < 0 ? T(0) : variance;  // NaN stays NaN, here and below
    }
    if constexpr (Max) {
      const T old = maximum[i], greater = second > old ? second : old;
      second = maximum[i] = second != second ? second : greater;
    }
    T root;
    if constexpr (EpsInSqrt) root = std::sqrt(second * correction + eps);
    else root = std::sqrt(second) * correction + eps;
    root = root < floor ? floor : root;
    const T m = exp_avg[i] = exp_avg[i] * keep + gain * g / root;

    T theta = widen(param[i]);
    if constexpr (Master) {
      // A weight that is not the rounded copy was changed from outside: that one counts.
      theta = widen(narrow<P>(master[i])) == theta ? master[i] : theta;
    }
    const T moved = muladd<Fma>(m, minus_scale, theta);
    theta = (moves ? moved : theta) * decay;
    if constexpr (Master) master[i] = theta;
    param[i] = narrow<P>(theta);
  }
}

// --- for each instruction set --------------------------------------------------------------------

#if defined(__aarch64__) || defined(__FMA__)
constexpr bool kBaseFma = true;
#else
constexpr bool kBaseFma = false;
#endif

template <class P, bool... Options>
void update_base(const Row& row, const void* grad, int64_t begin, int64_t end) {
  update<kBaseFma, P, Options...>(row, grad, begin, end);
}

#if defined(__x86_64__)
template <class P, bool... Options> __attribute__((target("avx2,fma")))
void update_avx2(const Row& row, const void* grad, int64_t begin, int64_t end) {
  update<true, P, Options...>(row, grad, begin, end);
}

// Roots and divisions are twice as many a cycle here. Compilers want to be told to use all 512 bits.
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,fma"
#if defined(__clang__)
#define WIDEST __attribute__((target(AVX512), min_vector_width(512)))
#else
#define WIDEST __attribute__((target(AVX512 ",prefer-vector-width=512")))
#endif
template <class P, bool... Options> WIDEST
void update_avx512(const Row& row, const void* grad, int64_t begin, int64_t end) {
  update<true, P, Options...>(row, grad, begin, end);
}
#endif

template <class P, bool... Options> Update for_this_machine() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return update_avx512<P, Options...>;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return update_avx2<P, Options...>;
#endif
  return update_base<P, Options...>;
}

// Turn flags known at run time into template arguments, one by one.
template <class P, bool... Known> Update choose() { return for_this_machine<P, Known...>(); }
template <class P, bool... Known, class... Rest> Update choose(bool next, Rest... rest) {
  return next ? choose<P, Known..., true>(rest...) : choose<P, Known..., false>(rest...);
}

Update choose_update(int dtype, bool master, bool max, bool mean, bool eps_in_sqrt) {
  switch (dtype) {
    case 0: return choose<float, false>(max, mean, eps_in_sqrt);
    case 1: return choose<double, false>(max, mean, eps_in_sqrt);
    case 2: return choose<BFloat16>(master, max, mean, eps_in_sqrt);
    default: return choose<Float16>(master, max, mean, eps_in_sqrt);
  }
}

struct Work {
  const Row *rows, *end;
  const void* const* grads;
};

// Elements begin to end of all rows laid end to end.
void work_on(int64_t begin, int64_t end, void* context) {
  const Work& work = *static_cast<const Work*>(context);
  const Row* row = std::upper_bound(work.rows, work.end, begin,
                                    [](int64_t at, const Row& r) { return at < r.first; }) - 1;
  for (; begin < end; ++row) {
    const int64_t stop = std::min(end, row->first + row->numel);
    if (begin < stop) row->update(*row, work.grads[row - work.rows], begin - row->first, stop - row->first);
    begin = std::max(begin, stop);
  }
}

}  // namespace

using ParallelFor = int32_t (*)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);

// Make one step; grads[i] belongs to rows[i]. Returns 0, or another number and has done nothing.
EXPORT int32_t laprop_step(Row* rows, const void* const* grads, int64_t count, double lr,
                           double beta1, double beta2, double eps, double weight_decay,
                           int64_t centered_warmup, int32_t flags, ParallelFor parallel_for) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!grads[i] && rows[i].numel) return 1;
    total += rows[i].numel;
  }
  const bool amsgrad = flags & kAmsgrad, centered = flags & kCentered;
  const bool lr_weighted = flags & kLrWeighted, eps_in_sqrt = flags & kEpsInSqrt;
  for (Row* row = rows; row < rows + count; ++row) {
    // As _advance and _final.
    const double step = row->wide_step ? ++*static_cast<double*>(row->step)
                                       : ++*static_cast<float*>(row->step);
    const double old_weight = *row->exp_avg_weight;
    const double weight = beta1 * old_weight + (1 - beta1) * (lr_weighted ? lr : 1.0);
    const double c_n = beta2 * *row->exp_avg_sq_weight + (1 - beta2);
    *row->exp_avg_weight = weight;
    *row->exp_avg_sq_weight = c_n;
    row->nu = beta2;
    row->keep = weight != 0 ? beta1 * old_weight / weight : 0.0;
    row->gain = weight != 0 ? (1 - beta1) * lr / weight : 0.0;
    row->correction = 1 / (eps_in_sqrt ? c_n : std::sqrt(c_n));
    row->eps = eps;
    row->scale = lr == 0 ? 0.0 : lr_weighted ? lr : 1.0;
    row->decay = lr == 0 ? 1.0 : 1 - weight_decay * (flags & kDecayByLr ? lr : 1.0);
    row->sign = flags & kMaximize ? -1.0 : 1.0;
    const bool warm = !centered || step > double(centered_warmup);
    row->centers = warm;
    row->update = choose_update(row->dtype, row->master, amsgrad && warm, centered, eps_in_sqrt);
  }
  Work work{rows, rows + count, grads};
  return parallel_for(0, total, 16384, work_on, &work);
}
