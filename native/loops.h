// Compiled loops: functions of NumPy's inner-loop form, called directly and split over threads.
//
// A loop is `void f(char** args, intptr_t const* dims, intptr_t const* steps, void* data)`:
// args: the operands' then the results' data; dims: the number of items, then the sizes of the core
// dimensions; steps: bytes from item to item for each argument, then the strides of each argument's
// core dimensions, in order. An elementwise loop has no core dimensions.
//
// Guarantees
//  * No Python and no XLA here. A loop that needs either gets it from its LoopGuard or its ThreadPool.
//  What is split over threads (SplitWork; loops are one kind):
//  * The calling thread takes chunks itself until none is left, and then waits only for chunks that
//    other threads have begun. So a pool that never runs a task, or runs it too late, costs nothing
//    and cannot deadlock.
//  * When it has returned, no thread touches the work any more. A task that starts late finds no chunk
//    and reads nothing but the shared counters, which it keeps alive itself.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "registry.h"

namespace callbax {

using LoopFunction = void (*)(char** args, const intptr_t* dims, const intptr_t* steps, void* data);

struct LoopArgument {
  int code = 0;  // XLA's data type, as the loop reads or writes it
  int64_t itemsize = 0;
  std::vector<int> core;  // which core dimensions it has, in order
};

constexpr size_t kMaxLoopArguments = 32;
constexpr size_t kMaxCoreDimensions = 16;

// A loop under its name in compiled programs. Immutable; its target keeps function and data alive.
struct Loop final : Callee {
  using Callee::Callee;

  LoopFunction function = nullptr;
  void* data = nullptr;
  size_t operands = 0;  // the first of `arguments`; the others are results
  std::vector<LoopArgument> arguments;
  size_t core_dimensions = 0;
  bool may_raise = false;  // sets Python exceptions (taking the GIL itself)
};

// One call of a loop in one executable: the state that XLA keeps for it.
struct LoopSite {
  std::shared_ptr<Loop> loop;
  std::string policy;          // about floating-point errors, as _compiled/error_state.py writes it
  int64_t number = 0;          // of numbered_calls, if the program runs on several devices
  bool serial = false;         // one thread runs the whole call
  bool widened = false;        // the first operand has one dimension more, the last, of size 1
  std::atomic<float> cost{0};  // of one item as measured, in ns; 0: not known
};

// Whether a buffer of this XLA type may be an argument. While x64 is disabled XLA has no types of 64
// bits, and its own conversions would flush denormals; so one with half the bits may, and is converted.
bool Fits(const LoopArgument& argument, int code, bool is_operand) noexcept;

// Not initialised: a call of one element takes less time than clearing these.
struct LoopBuffer {
  char* data;
  int code;          // XLA's data type, see Fits
  int64_t stride;    // bytes from item to item; 0 if every item is the same one
  int64_t elements;  // of one item
};

struct LoopCall {
  const Loop* loop;
  int64_t count;                           // items
  bool converts;                           // some buffer is narrower than the loop's type
  int64_t core_sizes[kMaxCoreDimensions];  // as many as the loop has
  LoopBuffer buffers[kMaxLoopArguments];   // as many as the loop has arguments
};

// What must be done on each thread that runs a part of a loop.
class LoopGuard {
 public:
  virtual void Enter() noexcept = 0;
  virtual void Leave() noexcept = 0;

 protected:
  ~LoopGuard() = default;
};

// Threads that may be asked to help.
struct ThreadPool {
  void* context = nullptr;
  int64_t (*threads)(void* context) = nullptr;
  bool (*schedule)(void* context, void (*task)(void*), void* data) = nullptr;
};

// What can be cut into chunks of its items.
class SplitWork {
 public:
  // Runs the items from `begin` to `end`; other threads may run others at the same time.
  virtual void Run(int64_t begin, int64_t end) = 0;
  // Runs chunks on a thread of the pool, by calling `run`, once.
  virtual void OnHelper(const std::function<void()>& run) = 0;

 protected:
  ~SplitWork() = default;
};

// Runs the items from `begin` to `end` on this thread and on up to `threads` - 1 of the pool.
void RunSplit(SplitWork& work, const ThreadPool& pool, int64_t threads, int64_t begin, int64_t end,
              int64_t chunk);

// Runs the whole call, and updates the site's cost.
void RunLoop(LoopSite& site, const LoopCall& call, const ThreadPool& pool, LoopGuard* guard);

// Runs the items from `begin` to `end` on this thread.
void RunRange(const LoopCall& call, int64_t begin, int64_t end);

// A scalar C function and what it gets as trailing `void*`: the `data` of its loop.
struct ScalarFunction {
  void* function = nullptr;
  void* user_data = nullptr;
};

// The loop that calls a C function of that signature; null if there is none.
//
// The signature is "arguments>result", in NumPy's letters: d double, f float, i int32, l int64,
// D double complex, F float complex; then the function's trailing argument, which is not an operand:
// "0" for an int that is 0 (Cython's skip_dispatch), "p" for the user data. As in "ddl>d", "D>D0".
LoopFunction FindScalarLoop(const std::string& signature) noexcept;

}  // namespace callbax
