// Compiled loops: functions of NumPy's inner-loop form, called directly and split over threads.
//
// A loop is `void f(char** args, intptr_t const* dims, intptr_t const* steps, void* data)`:
// args: the operands' then the results' data; dims: the number of items, then the sizes of the core
// dimensions; steps: bytes from item to item for each argument, then the strides of each argument's
// core dimensions, in order. An elementwise loop has no core dimensions.
//
// Guarantees
//  * No Python and no XLA here. A loop that needs either gets it from its LoopGuard or its Pool.
//  * The calling thread takes chunks itself until none is left, and then waits only for chunks that
//    other threads have begun. So a pool that never runs a task, or runs it too late, costs nothing
//    and cannot deadlock.
//  * When RunLoop returns, no thread touches the buffers any more. A task that starts late finds no
//    chunk and reads nothing but the shared counters, which it keeps alive itself.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "registry.h"

namespace callbax {

using LoopFunction = void (*)(char** args, const intptr_t* dims, const intptr_t* steps, void* data);

struct LoopArgument {
  int code = 0;              // XLA's data type, as the loop reads or writes it
  int64_t itemsize = 0;
  std::vector<int> core;     // which core dimensions it has, in order
};

constexpr size_t kMaxLoopArguments = 32;
constexpr size_t kMaxCoreDimensions = 16;

// A loop under its name in compiled programs. Immutable.
struct Loop {
  ~Loop();

  std::string name;
  LoopFunction function = nullptr;
  void* data = nullptr;
  size_t operands = 0;                  // the first of `arguments`; the others are results
  std::vector<LoopArgument> arguments;
  size_t core_dimensions = 0;
  bool may_raise = false;               // sets Python exceptions (taking the GIL itself)
  void* owner = nullptr;                // a reference that keeps function and data alive
  DropReference drop = nullptr;
};

using LoopPtr = std::shared_ptr<Loop>;

// The living loop of that name, or null.
LoopPtr FindLoop(const std::string& name);
// Enters a loop, unless a living one has its name: then that one is returned.
LoopPtr AddLoop(LoopPtr loop);
size_t LiveLoops();

// The narrower type that may stand in a buffer for what a loop reads as `code`, or 0. XLA has no
// 64-bit types to offer while x64 is disabled, and its own conversions would flush denormals.
int NarrowCode(int code) noexcept;

// Not initialised: a call of one element takes less time than clearing these.
struct LoopBuffer {
  char* data;
  int code;          // the loop's, or NarrowCode of it
  int64_t stride;    // bytes from item to item; 0 if every item is the same one
  int64_t elements;  // of one item
};

struct LoopCall {
  const Loop* loop;
  int64_t count;                              // items
  bool converts;                              // some buffer is narrower than the loop's type
  int64_t core_sizes[kMaxCoreDimensions];     // as many as the loop has
  LoopBuffer buffers[kMaxLoopArguments];      // as many as the loop has arguments
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
struct Pool {
  void* context = nullptr;
  int64_t (*threads)(void* context) = nullptr;
  bool (*schedule)(void* context, void (*task)(void*), void* data) = nullptr;
};

// Runs the whole call. `cost` is the measured time of one item in ns (0: not known), kept by the
// caller from call to call.
void RunLoop(const LoopCall& call, const Pool& pool, LoopGuard* guard, std::atomic<float>* cost);

}  // namespace callbax
