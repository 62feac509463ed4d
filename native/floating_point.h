// XLA runs its threads with denormals flushed to zero. Inside a callback they are ordinary numbers.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace callbax {

// How this thread computed when the object was made.
class FloatingPointMode {
 public:
#if defined(__x86_64__) || defined(_M_X64)
  FloatingPointMode() : saved_(_mm_getcsr()) {}
  void Apply() const { _mm_setcsr(saved_); }
  static void ApplyOrdinary() { _mm_setcsr(kDefault); }

 private:
  static constexpr unsigned kDefault = 0x1F80;  // all exceptions masked, round to nearest, no flush
  unsigned saved_;
#elif defined(__aarch64__)
  FloatingPointMode() { asm volatile("mrs %0, fpcr" : "=r"(saved_)); }
  void Apply() const { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
  static void ApplyOrdinary() {
    asm volatile("msr fpcr, %0" : : "r"(FloatingPointMode().saved_ & ~kFlush));
  }

 private:
  static constexpr uint64_t kFlush = (uint64_t{1} << 24) | (uint64_t{1} << 19);  // FZ, FZ16
  uint64_t saved_ = 0;
#else
  FloatingPointMode() { std::fegetenv(&saved_); }
  void Apply() const { std::fesetenv(&saved_); }
  static void ApplyOrdinary() { std::fesetenv(FE_DFL_ENV); }

 private:
  std::fenv_t saved_;
#endif
};

class OrdinaryFloatingPoint {
 public:
  OrdinaryFloatingPoint() { FloatingPointMode::ApplyOrdinary(); }
  ~OrdinaryFloatingPoint() { saved_.Apply(); }
  OrdinaryFloatingPoint(const OrdinaryFloatingPoint&) = delete;
  OrdinaryFloatingPoint& operator=(const OrdinaryFloatingPoint&) = delete;

 private:
  FloatingPointMode saved_;
};

}  // namespace callbax
