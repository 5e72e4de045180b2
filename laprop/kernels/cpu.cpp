// One step of LaProp for many tensors at once, in one pass over memory. Adaptive gradient clipping
// needs the norms before the step, so it reads gradients and weights once more. `cautious` needs to
// count signs after the averages are known, so it moves the weights in a second pass.
//
// The interface is plain C, which cpu.py calls through ctypes. This file includes no header of
// torch or Python, so one build serves every version of both. The step runs on torch's threads if
// cpu.py passes torch's parallel_for, else on the calling thread.
//
// The order of operations is that of the loop over tensors in laprop/arithmetic.py, and each
// operation is rounded as ATen's kernels round it, with a fused multiply-add where they have one.
// Results that depend on no square root therefore have the same bits. ATen's root, which is MKL's,
// is not always correctly rounded. The file must be compiled with -ffp-contract=off.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "numbers.h"
#include "table.h"

namespace {

// --- arguments from cpu.py -----------------------------------------------------------------------

enum Flag {
  kAmsgrad = 1, kCentered = 2, kDecayByLr = 4, kEpsInSqrt = 8, kLrWeighted = 16, kMaximize = 32,
  kLrInMomentum = 64, kCautious = 128, kWideStep = 256, kNarrowState = 512, kStochastic = 1024
};

// The same layout as Options in native.py.
struct Options {
  double lr, mu, nu, eps, weight_decay, agc;
  int64_t centered_warmup, seed;
  int32_t dtype, flags;  // dtype: an index of DTYPES in rows.py
};

// --- one parameter -------------------------------------------------------------------------------

struct Row;
using Update = void (*)(Row&, int64_t begin, int64_t end);

struct Sums {
  double grad, param;  // of squares
};
using Squares = Sums (*)(const Row&, int64_t begin, int64_t end);

struct Row {
  void *param, *exp_avg, *exp_avg_sq, *maximum, *mean, *master;
  const void* grad;
  int64_t first, numel;  // first: number of elements in all rows before
  // Factors of this step. The inner or the outer pair of correction and eps is 1 and 0.
  double nu, keep, gain, inner_correction, inner_eps, outer_correction, outer_eps, scale, decay;
  double sign;  // -1 to maximize, else 1, times the factor that clips the gradient
  bool centers;  // whether the squared mean is subtracted in this step
  uint32_t seed;
  double caution;  // factor of the updates that agree in sign with their gradients
  std::atomic<int64_t> aligned;  // number of such updates
  Update update, move;
};

// --- the passes ----------------------------------------------------------------------------------

enum Rounding { kNearest, kMasterCopy, kAtRandom };
enum Phase { kAll, kAverages };

// The weight before the step. A weight that differs from its rounded master copy was changed from
// outside, and is used in the master copy's place.
template <class P, int Round> INLINE Wide<P> weight_at(const P* param, const Wide<P>* master, int64_t i) {
  const Wide<P> theta = widen(param[i]);
  if constexpr (Round == kMasterCopy) return widen(narrow<P>(master[i])) == theta ? master[i] : theta;
  return theta;
}

template <class P, int Round>
INLINE void put_weight(P* param, Wide<P>* master, int64_t i, Wide<P> theta, uint32_t seed) {
  if constexpr (Round == kMasterCopy) master[i] = theta;
  if constexpr (Round == kAtRandom) param[i] = round_at_random(theta, hashed(seed + 2u, uint32_t(i)));
  else param[i] = narrow<P>(theta);
}

// Update the averages, and for kAll the weights too.
template <bool Fma, class P, class S, int Round, bool Max, bool Mean, int Which>
INLINE void update(Row& row, int64_t begin, int64_t end) {
  using T = Wide<P>;
  P* __restrict const param = static_cast<P*>(row.param);
  const P* __restrict const grad = static_cast<const P*>(row.grad);
  S* __restrict const exp_avg = static_cast<S*>(row.exp_avg);
  S* __restrict const exp_avg_sq = static_cast<S*>(row.exp_avg_sq);
  S* __restrict const maximum = static_cast<S*>(row.maximum);
  S* __restrict const mean = static_cast<S*>(row.mean);
  T* __restrict const master = static_cast<T*>(row.master);
  const T nu = T(row.nu), complement = T(1 - row.nu), keep = T(row.keep), gain = T(row.gain);
  const T inner_correction = T(row.inner_correction), inner_eps = T(row.inner_eps);
  const T outer_correction = T(row.outer_correction), outer_eps = T(row.outer_eps);
  const T decay = T(row.decay), sign = T(row.sign), minus_scale = T(-row.scale);
  const T floor = T(std::sqrt(double(std::numeric_limits<T>::min())));
  const bool centers = row.centers;
  const bool moves = row.scale != 0;  // a product with 0 would be NaN for an infinite update
  const uint32_t seed = row.seed;
  int64_t aligned = 0;

  INDEPENDENT
  for (int64_t i = begin; i < end; ++i) {
    uint32_t noise = 0, more = 0;
    if constexpr (sizeof(S) < sizeof(T)) {
      noise = hashed(seed, uint32_t(i));
      if constexpr (Max || Mean) more = hashed(seed + 1u, uint32_t(i));
    }
    const T g = widen(grad[i]) * sign;
    const T n = muladd<Fma>(complement * g, g, widen(exp_avg_sq[i]) * nu);
    exp_avg_sq[i] = stored(n, S(), noise);
    T second = n;
    if constexpr (Mean) {
      const T average = muladd<Fma>(g, complement, widen(mean[i]) * nu);
      mean[i] = stored(average, S(), more);
      const T center = centers ? average : T(0), difference = n - center * center;
      // If both overflow, n stays infinite, and the gradient counts as 0. NaN stays NaN, here and
      // below.
      const T variance = n < std::numeric_limits<T>::infinity() ? difference : n;
      second = variance < 0 ? T(0) : variance;
    }
    if constexpr (Max) {
      const T old = widen(maximum[i]), greater = second > old ? second : old;
      second = second != second ? second : greater;
      maximum[i] = stored(second, S(), more >> 16);
    }
    T root = std::sqrt(second * inner_correction + inner_eps) * outer_correction + outer_eps;
    root = root < floor ? floor : root;
    const T m = widen(exp_avg[i]) * keep + gain * g / root;
    exp_avg[i] = stored(m, S(), noise >> 16);
    if constexpr (Which == kAverages) {
      aligned += (m > 0) & (g > 0) || (m < 0) & (g < 0);
    } else {
      const T theta = weight_at<P, Round>(param, master, i);
      const T moved = muladd<Fma>(m, minus_scale, theta);
      put_weight<P, Round>(param, master, i, (moves ? moved : theta) * decay, seed);
    }
  }
  if constexpr (Which == kAverages) row.aligned += aligned;
}

// Move the weights whose update agrees with the gradient in sign.
template <bool Fma, class P, class S, int Round>
INLINE void move(Row& row, int64_t begin, int64_t end) {
  using T = Wide<P>;
  P* __restrict const param = static_cast<P*>(row.param);
  const P* __restrict const grad = static_cast<const P*>(row.grad);
  const S* __restrict const exp_avg = static_cast<const S*>(row.exp_avg);
  T* __restrict const master = static_cast<T*>(row.master);
  const T decay = T(row.decay), sign = T(row.sign), minus_scale = T(-row.scale);
  const T caution = T(row.caution);
  const bool moves = row.scale != 0;

  INDEPENDENT
  for (int64_t i = begin; i < end; ++i) {
    const T g = widen(grad[i]) * sign, m = widen(exp_avg[i]);
    const bool agrees = ((m > 0) & (g > 0)) | ((m < 0) & (g < 0));
    const T theta = weight_at<P, Round>(param, master, i);
    const T moved = muladd<Fma>(m * (agrees ? caution : T(0)), minus_scale, theta);
    put_weight<P, Round>(param, master, i, (moves ? moved : theta) * decay, row.seed);
  }
}

// Sums of squares in float64. The order of summation depends only on begin and end.
template <class P, int Round> INLINE Sums squares(const Row& row, int64_t begin, int64_t end) {
  const P* __restrict const param = static_cast<const P*>(row.param);
  const P* __restrict const grad = static_cast<const P*>(row.grad);
  const Wide<P>* __restrict const master = static_cast<const Wide<P>*>(row.master);
  constexpr int kLanes = 16;
  double grads[kLanes] = {}, params[kLanes] = {};
  for (; begin + kLanes <= end; begin += kLanes) {
    INDEPENDENT
    for (int lane = 0; lane < kLanes; ++lane) {
      const double g = widen(grad[begin + lane]);
      const double theta = weight_at<P, Round>(param, master, begin + lane);
      grads[lane] += g * g;
      params[lane] += theta * theta;
    }
  }
  for (int lane = 0; begin < end; ++begin, ++lane) {
    const double g = widen(grad[begin]), theta = weight_at<P, Round>(param, master, begin);
    grads[lane] += g * g;
    params[lane] += theta * theta;
  }
  Sums sums{0, 0};
  for (int lane = 0; lane < kLanes; ++lane) sums.grad += grads[lane], sums.param += params[lane];
  return sums;
}

// --- for each instruction set --------------------------------------------------------------------

#if defined(__aarch64__) || defined(__FMA__)
constexpr bool kBaseFma = true;
#else
constexpr bool kBaseFma = false;
#endif

template <class P, class S, int Round, bool Max, bool Mean, int Which>
void update_base(Row& row, int64_t begin, int64_t end) {
  update<kBaseFma, P, S, Round, Max, Mean, Which>(row, begin, end);
}
template <class P, int Round> Sums squares_base(const Row& row, int64_t begin, int64_t end) {
  return squares<P, Round>(row, begin, end);
}
template <class P, class S, int Round> void move_base(Row& row, int64_t begin, int64_t end) {
  move<kBaseFma, P, S, Round>(row, begin, end);
}

#if defined(__x86_64__)
template <class P, class S, int Round, bool Max, bool Mean, int Which>
__attribute__((target("avx2,fma"))) void update_avx2(Row& row, int64_t begin, int64_t end) {
  update<true, P, S, Round, Max, Mean, Which>(row, begin, end);
}
template <class P, int Round>
__attribute__((target("avx2,fma"))) Sums squares_avx2(const Row& row, int64_t begin, int64_t end) {
  return squares<P, Round>(row, begin, end);
}
template <class P, class S, int Round>
__attribute__((target("avx2,fma"))) void move_avx2(Row& row, int64_t begin, int64_t end) {
  move<true, P, S, Round>(row, begin, end);
}

// AVX-512 does twice as many roots and divisions per cycle. Compilers use all 512 bits only if they
// are told to.
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,fma"
#if defined(__clang__)
#define WIDEST __attribute__((target(AVX512), min_vector_width(512)))
#else
#define WIDEST __attribute__((target(AVX512 ",prefer-vector-width=512")))
#endif
template <class P, class S, int Round, bool Max, bool Mean, int Which>
WIDEST void update_avx512(Row& row, int64_t begin, int64_t end) {
  update<true, P, S, Round, Max, Mean, Which>(row, begin, end);
}
template <class P, int Round>
WIDEST Sums squares_avx512(const Row& row, int64_t begin, int64_t end) {
  return squares<P, Round>(row, begin, end);
}
template <class P, class S, int Round> WIDEST void move_avx512(Row& row, int64_t begin, int64_t end) {
  move<true, P, S, Round>(row, begin, end);
}
#endif

enum Machine { kBase, kAvx2, kAvx512 };
Machine this_machine() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2;
#endif
  return kBase;
}

struct Functions {
  Update update, move;
  Squares squares;
};

template <class P, class S, int Round, bool Max, bool Mean, int Which> Functions for_machine() {
#if defined(__x86_64__)
  switch (this_machine()) {
    case kAvx512:
      return {update_avx512<P, S, Round, Max, Mean, Which>, move_avx512<P, S, Round>,
              squares_avx512<P, Round>};
    case kAvx2:
      return {update_avx2<P, S, Round, Max, Mean, Which>, move_avx2<P, S, Round>,
              squares_avx2<P, Round>};
    default: break;
  }
#endif
  return {update_base<P, S, Round, Max, Mean, Which>, move_base<P, S, Round>, squares_base<P, Round>};
}

// The following functions turn options that are known at run time into template arguments.
template <class P, class S, int Round> Functions choose(bool max, bool mean, bool cautious) {
  switch (4 * max + 2 * mean + cautious) {
    case 0: return for_machine<P, S, Round, false, false, kAll>();
    case 1: return for_machine<P, S, Round, false, false, kAverages>();
    case 2: return for_machine<P, S, Round, false, true, kAll>();
    case 3: return for_machine<P, S, Round, false, true, kAverages>();
    case 4: return for_machine<P, S, Round, true, false, kAll>();
    case 5: return for_machine<P, S, Round, true, false, kAverages>();
    case 6: return for_machine<P, S, Round, true, true, kAll>();
    default: return for_machine<P, S, Round, true, true, kAverages>();
  }
}

template <class P, int Round> Functions choose_state(bool narrow, bool max, bool mean, bool cautious) {
  return narrow ? choose<P, BFloat16, Round>(max, mean, cautious)
                : choose<P, float, Round>(max, mean, cautious);
}

Functions choose_functions(const Options& options, bool master, bool max) {
  const bool mean = options.flags & kCentered, cautious = options.flags & kCautious;
  const bool narrow = options.flags & kNarrowState;
  switch (options.dtype) {
    case 0: return choose_state<float, kNearest>(narrow, max, mean, cautious);
    case 1: return choose<double, double, kNearest>(max, mean, cautious);
    case 2:
      if (master) return choose_state<BFloat16, kMasterCopy>(narrow, max, mean, cautious);
      if (options.flags & kStochastic)
        return choose_state<BFloat16, kAtRandom>(narrow, max, mean, cautious);
      return choose_state<BFloat16, kNearest>(narrow, max, mean, cautious);
    default:
      if (master) return choose_state<Float16, kMasterCopy>(narrow, max, mean, cautious);
      return choose_state<Float16, kNearest>(narrow, max, mean, cautious);
  }
}

// --- all parameters ------------------------------------------------------------------------------

using Task = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain, Task, void* context);

struct Work {
  Row* rows;
  Row* end;
  Update Row::*function;
};

// Process the elements from begin to end, numbered through all rows.
void work_on(int64_t begin, int64_t end, void* context) {
  const Work& work = *static_cast<const Work*>(context);
  Row* row = std::upper_bound(work.rows, work.end, begin,
                              [](int64_t at, const Row& r) { return at < r.first; }) - 1;
  for (; begin < end; ++row) {
    const int64_t stop = std::min(end, row->first + row->numel);
    if (begin < stop) (row->*work.function)(*row, begin - row->first, stop - row->first);
    begin = std::max(begin, stop);
  }
}

constexpr int64_t kGrain = 16384;

struct Block {
  const Row* row;
  int64_t begin;
  Sums sums;
};
struct Norms {
  Block* blocks;
  Squares squares;
};

void norms_of(int64_t begin, int64_t end, void* context) {
  const Norms& norms = *static_cast<const Norms*>(context);
  for (Block* block = norms.blocks + begin; block < norms.blocks + end; ++block)
    block->sums = norms.squares(*block->row, block->begin,
                                std::min(block->begin + kGrain, block->row->numel));
}

// Multiply each row's sign by the factor that clips its gradient.
int32_t clip(Row* rows, int64_t count, double agc, Squares squares, ParallelFor parallel_for) {
  std::vector<Block> blocks;
  for (const Row* row = rows; row < rows + count; ++row)
    for (int64_t begin = 0; begin < row->numel; begin += kGrain) blocks.push_back({row, begin, {0, 0}});
  Norms norms{blocks.data(), squares};
  if (const int32_t failed = parallel_for(0, int64_t(blocks.size()), 1, norms_of, &norms)) return failed;
  const Block* block = blocks.data();
  for (Row* row = rows; row < rows + count; ++row) {
    Sums sums{0, 0};
    for (int64_t begin = 0; begin < row->numel; begin += kGrain, ++block)
      sums.grad += block->sums.grad, sums.param += block->sums.param;
    const double limit = agc * std::max(std::sqrt(sums.param), 1e-3);  // NaN if the norm is NaN
    const double ratio = limit / std::sqrt(sums.grad);
    if (!(ratio >= 1)) row->sign *= ratio;  // also where it is NaN
  }
  return 0;
}

// Whether a tensor that is written shares memory with any other tensor.
bool overlaps(const int64_t* table, int64_t count, int64_t param_bytes, int64_t state_bytes) {
  struct Span {
    int64_t begin, end;
    bool written;
  };
  std::vector<Span> spans;
  spans.reserve(size_t(count) * 4);
  for (int column = kParam; column <= kMaster; ++column) {
    const bool as_param = column == kParam || column == kGrad;
    const int64_t bytes = as_param ? param_bytes : column == kMaster ? 4 : state_bytes;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t begin = table[column * count + i], numel = table[kNumel * count + i];
      if (begin && numel) spans.push_back({begin, begin + numel * bytes, column != kGrad});
    }
  }
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  int64_t read = 0, written = 0;  // ends of the spans so far that are only read, and are written
  for (const Span& span : spans) {
    if (span.begin < written || (span.written && span.begin < read)) return true;
    int64_t& end = span.written ? written : read;
    end = std::max(end, span.end);
  }
  return false;
}

int32_t on_this_thread(int64_t begin, int64_t end, int64_t, Task task, void* context) {
  if (begin < end) task(begin, end, context);
  return 0;
}

}  // namespace

// Return what has to be the same in native.py, as one number: kInterface, the size of Options in
// bytes and the number of columns, in units of 2^32, 2^16 and 1.
EXPORT int64_t laprop_interface() {
  return kInterface << 32 | int64_t(sizeof(Options)) << 16 | kColumns;
}

// Make one step and return 0. On 1 (a tensor has no memory, or a scalar is lazily negated) and on 2
// (tensors overlap) it has changed nothing. On 3 torch's threads failed, and the step is only
// partly done.
EXPORT int32_t laprop_step(const int64_t* table, int64_t count, const Options* options,
                           ParallelFor parallel_for) {
  const Options& o = *options;
  const double lr = o.lr < 0 ? 0.0 : o.lr;  // negative only by a scheduler's rounding errors
  if (!parallel_for) parallel_for = on_this_thread;
  const bool amsgrad = o.flags & kAmsgrad, centered = o.flags & kCentered;
  const bool lr_inside = o.flags & kLrInMomentum, eps_in_sqrt = o.flags & kEpsInSqrt;
  const bool lr_weighted = lr_inside && o.flags & kLrWeighted, cautious = o.flags & kCautious;
  const bool narrow_state = o.flags & kNarrowState;
  const int64_t param_bytes = o.dtype == 0 ? 4 : o.dtype == 1 ? 8 : 2;
  const auto address = [&](int column, int64_t i) {
    return reinterpret_cast<void*>(table[column * count + i]);
  };
  for (int64_t i = 0; i < count; ++i) {
    if (table[kNumel * count + i])
      for (int column = kParam; column <= kExpAvgSq; ++column)
        if (!address(column, i)) return 1;
    for (int column = kStep; column <= kSqWeight; ++column)
      if (!address(column, i)) return 1;
    // The sign bit of a scalar, also of a 0, is set only if its tensor is lazily negated.
    const void* const steps = address(kStep, i);
    const double step = o.flags & kWideStep ? *static_cast<const double*>(steps)
                                            : *static_cast<const float*>(steps);
    if (std::signbit(step) || std::signbit(*static_cast<const double*>(address(kWeight, i))) ||
        std::signbit(*static_cast<const double*>(address(kSqWeight, i))))
      return 1;
  }
  if (overlaps(table, count, param_bytes, narrow_state ? 2 : param_bytes == 8 ? 8 : 4)) return 2;

  const std::unique_ptr<Row[]> rows(new Row[size_t(count)]);
  int64_t total = 0;
  Squares sums = nullptr;
  for (int64_t i = 0; i < count; ++i) {
    Row* const row = &rows[i];
    row->param = address(kParam, i), row->grad = address(kGrad, i);
    row->exp_avg = address(kExpAvg, i), row->exp_avg_sq = address(kExpAvgSq, i);
    row->maximum = address(kMaximum, i), row->mean = address(kMean, i);
    row->master = address(kMaster, i);
    row->first = total, row->numel = table[kNumel * count + i];
    total += row->numel;
    row->aligned = 0;

    // The same formulas as in _scalars() of laprop/arithmetic.py.
    void* const steps = address(kStep, i);
    const double step = o.flags & kWideStep ? ++*static_cast<double*>(steps)
                                            : ++*static_cast<float*>(steps);
    double* const kept_weight = static_cast<double*>(address(kWeight, i));
    double* const kept_sq_weight = static_cast<double*>(address(kSqWeight, i));
    const double old_weight = *kept_weight;
    const double weight = o.mu * old_weight + (1 - o.mu) * (lr_weighted ? lr : 1.0);
    const double c_n = o.nu * *kept_sq_weight + (1 - o.nu);
    *kept_weight = weight;
    *kept_sq_weight = c_n;
    row->nu = o.nu;
    row->keep = weight != 0 ? o.mu * old_weight / weight : 0.0;
    row->gain = weight != 0 ? (1 - o.mu) * (lr_inside ? lr : 1.0) / weight : 0.0;
    const double correction = 1 / (eps_in_sqrt ? c_n : std::sqrt(c_n));
    row->inner_correction = eps_in_sqrt ? correction : 1.0;
    row->inner_eps = eps_in_sqrt ? o.eps : 0.0;
    row->outer_correction = eps_in_sqrt ? 1.0 : correction;
    row->outer_eps = eps_in_sqrt ? 0.0 : o.eps;
    row->scale = lr == 0 ? 0.0 : lr_inside && !lr_weighted ? 1.0 : lr;
    row->decay = lr == 0 ? 1.0 : 1 - o.weight_decay * (o.flags & kDecayByLr ? lr : 1.0);
    row->sign = o.flags & kMaximize ? -1.0 : 1.0;
    row->centers = !centered || step > double(o.centered_warmup);
    row->seed = hashed(uint32_t(o.seed), uint32_t(i)) ^ uint32_t(o.seed >> 32);
    const Functions functions = choose_functions(o, row->master, amsgrad && row->centers);
    row->update = functions.update, row->move = functions.move;
    if (row->numel) sums = functions.squares;  // an empty row has no master copy's address
  }
  if (o.agc > 0 && total && clip(rows.get(), count, o.agc, sums, parallel_for)) return 3;
  Work work{rows.get(), rows.get() + count, &Row::update};
  if (parallel_for(0, total, kGrain, work_on, &work)) return 3;
  if (!cautious) return 0;
  for (Row* row = rows.get(); row < rows.get() + count; ++row)
    row->caution = 1 / std::max(double(row->aligned) / double(row->numel), 1e-3);
  work.function = &Row::move;
  return parallel_for(0, total, kGrain, work_on, &work) ? 3 : 0;
}
