// A stand-in for NVIDIA's driver: its machine, for the functions in fake_driver.cc, and for fake_platform.cc.
//
// Streams are threads. The memory of a "device" is mapped twice: at the address that is given out the
// process cannot touch it, so that host code which does dies as it should; streams use the other mapping.
// What the real driver leaves undefined ends the process: copies out of range, page-locked memory that is
// freed while a copy uses it, events of another context.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>

struct CUctx_st {};

struct CUevent_st {
  CUctx_st* context;
  uint64_t recorded = 0, passed = 0;  // guarded by the world's mutex
};

struct CUstream_st {
  explicit CUstream_st(CUctx_st* of) : context(of) {}
  CUctx_st* const context;
  std::deque<std::function<void()>> work;  // guarded by the world's mutex
  int copies = 0;                          // that have not ended; guarded by the world's mutex
};

namespace fake {

using Result = int;

struct World {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<uintptr_t, std::pair<size_t, char*>> device;  // address: size, where streams find it
  std::multimap<size_t, uintptr_t> free_device;          // by size
  std::map<uintptr_t, size_t> locked;                    // page-locked memory: address, size
  std::map<uintptr_t, int> in_use;                       // of it, by copies that have not ended
  std::set<CUevent_st*> events;
  std::map<std::string, long> calls;
  std::map<std::string, std::pair<long, Result>> failures;  // function: call, result
  size_t locked_bytes = 0, most_locked_bytes = 0;
  long pageable_copies = 0;
  int copy_us = 0, event_us = 0;  // delays
  bool capturing = false;
  bool holding = false;  // kernels of fake_hold
};
World& world();  // all of it is guarded by its mutex

[[noreturn]] void Die(const char* what);

// The address of memory of the device, and where it is really. With the mutex.
uintptr_t AllocateDevice(size_t bytes);
void FreeDevice(uintptr_t address);
char* Alias(uintptr_t address, size_t bytes);

// One context for each device. Stream 0 is XLA's.
CUstream_st* StreamOf(int device, int number = 0);
// The context of this thread. What makes it another returns the one before.
CUctx_st* Current();
CUctx_st* MakeCurrent(CUctx_st* context);
// Waits for the copies on the stream.
void AwaitCopies(CUstream_st* stream);

}  // namespace fake
