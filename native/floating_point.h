// XLA runs its threads with denormals flushed to zero. Inside a callback they are ordinary numbers.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace callbax {

class OrdinaryFloatingPoint {
 public:
#if defined(__x86_64__) || defined(_M_X64)
  OrdinaryFloatingPoint() : saved_(_mm_getcsr()) { _mm_setcsr(kDefault); }
  ~OrdinaryFloatingPoint() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kDefault = 0x1F80;  // all exceptions masked, round to nearest, no flush
  unsigned saved_;
#elif defined(__aarch64__)
  OrdinaryFloatingPoint() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ & ~kFlush));
  }
  ~OrdinaryFloatingPoint() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  static constexpr uint64_t kFlush = (uint64_t{1} << 24) | (uint64_t{1} << 19);  // FZ, FZ16
  uint64_t saved_ = 0;
#else
  OrdinaryFloatingPoint() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~OrdinaryFloatingPoint() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
#endif
};

}  // namespace callbax
