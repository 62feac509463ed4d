// The driver's functions over the machine of fake_cuda.h, and those by which tests set and read it.
#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "fake_cuda.h"

using namespace fake;

namespace {

enum : Result {
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNoContext = 201,
  kInvalidHandle = 400,
  kNotReady = 600
};

// Counts a call, with the mutex; what it is to answer if not 0.
Result Enter(const char* name) {
  World& w = world();
  const long call = ++w.calls[name];
  const auto failure = w.failures.find(name);
  if (failure != w.failures.end() && call == failure->second.first) return failure->second.second;
  return Current() == nullptr ? kNoContext : 0;
}

#define ENTER                                       \
  std::unique_lock<std::mutex> lock(world().mutex); \
  if (const Result answer = Enter(__func__)) return answer;

void Sleep(int microseconds) {
  if (microseconds > 0) std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
}

// The block of page-locked memory that holds the range, or 0. With the mutex.
uintptr_t LockedBlock(const void* memory, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  auto block = world().locked.upper_bound(address);
  if (block == world().locked.begin()) return 0;
  --block;
  if (address >= block->first + block->second) return 0;
  if (address + bytes > block->first + block->second) Die("a copy beyond page-locked memory");
  return block->first;
}

// As the driver does: page-locked memory later, ordinary memory at once, after what came before.
Result Copy(std::unique_lock<std::mutex>* lock, CUstream_st* stream, void* host, uintptr_t device,
            size_t bytes, bool to_host) {
  World& w = world();
  if (stream->context != Current()) return kInvalidHandle;
  char* alias = Alias(device, bytes);
  const uintptr_t block = LockedBlock(host, bytes);
  ++stream->copies;
  ++w.in_use[block];
  if (to_host) std::memset(host, 0xEE, bytes);  // what is read too early is seen to be wrong
  bool done = false;
  bool* const tell = block == 0 ? &done : nullptr;
  stream->work.push_back([=, &w] {
    Sleep(w.copy_us);
    to_host ? std::memcpy(host, alias, bytes) : std::memcpy(alias, host, bytes);
    std::lock_guard<std::mutex> guard(w.mutex);
    --stream->copies;
    --w.in_use[block];
    if (tell != nullptr) *tell = true;
    w.changed.notify_all();
  });
  w.changed.notify_all();
  if (block != 0) return 0;
  ++w.pageable_copies;
  w.changed.wait(*lock, [&] { return done; });
  return 0;
}

// Work of a stream on its device's memory, which takes as long as a copy. With the mutex.
void Begin(CUstream_st* stream, std::function<void()> work) {
  World& w = world();
  ++stream->copies;
  stream->work.push_back([=, &w] {
    Sleep(w.copy_us);
    work();
    std::lock_guard<std::mutex> guard(w.mutex);
    --stream->copies;
    w.changed.notify_all();
  });
  w.changed.notify_all();
}

Result Known(CUevent_st* event) { return world().events.count(event) ? 0 : kInvalidHandle; }

}  // namespace

extern "C" {

// -- NVIDIA's --------------------------------------------------------------------------------------
Result cuGetErrorName(Result result, const char** name) {
  *name = result == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : nullptr;
  return *name ? 0 : kInvalidValue;
}

Result cuGetErrorString(Result result, const char** text) {
  *text = result == 700 ? "an illegal memory access was encountered" : nullptr;
  return *text ? 0 : kInvalidValue;
}

Result cuCtxGetCurrent(CUctx_st** context) {
  ENTER
  *context = Current();
  return 0;
}

// Threads of callbax's own have none before, and none afterwards.
Result cuCtxSetCurrent(CUctx_st* context) {
  if (context != nullptr) MakeCurrent(context);
  ENTER
  MakeCurrent(context);
  return 0;
}

Result cuStreamIsCapturing(CUstream_st*, int* status) {
  ENTER
  *status = world().capturing;
  return 0;
}

Result cuStreamWaitEvent(CUstream_st* stream, CUevent_st* event, unsigned) {
  ENTER
  if (Known(event) != 0) return kInvalidHandle;
  World& w = world();
  const uint64_t ticket = event->recorded;
  ++stream->copies;  // the stream has work until then
  stream->work.push_back([=, &w] {
    std::unique_lock<std::mutex> waiting(w.mutex);
    w.changed.wait(waiting, [=] { return event->passed >= ticket; });
    --stream->copies;
    w.changed.notify_all();
  });
  w.changed.notify_all();
  return 0;
}

Result cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  ENTER
  *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (*memory == MAP_FAILED) return kOutOfMemory;
  madvise(*memory, bytes, MADV_DONTFORK);  // nobody promises that a child has it
  std::memset(*memory, 0xAB, bytes);
  World& w = world();
  w.locked[reinterpret_cast<uintptr_t>(*memory)] = bytes;
  w.locked_bytes += bytes;
  if (w.locked_bytes > w.most_locked_bytes) w.most_locked_bytes = w.locked_bytes;
  return 0;
}

Result cuMemFreeHost(void* memory) {
  ENTER
  World& w = world();
  const auto block = w.locked.find(reinterpret_cast<uintptr_t>(memory));
  if (block == w.locked.end()) return kInvalidValue;
  if (w.in_use[block->first] != 0) Die("page-locked memory is freed while a copy uses it");
  munmap(memory, block->second);
  w.locked_bytes -= block->second;
  w.locked.erase(block);
  return 0;
}

Result cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, size_t bytes, CUstream_st* stream) {
  ENTER
  return Copy(&lock, stream, to, from, bytes, true);
}

Result cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, size_t bytes,
                            CUstream_st* stream) {
  ENTER
  return Copy(&lock, stream, const_cast<void*>(from), to, bytes, false);
}

Result cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t bytes,
                            CUstream_st* stream) {
  ENTER
  char* const out = Alias(to, bytes);
  const char* const in = Alias(from, bytes);
  Begin(stream, [=] { std::memcpy(out, in, bytes); });
  return 0;
}

Result cuMemsetD8Async(unsigned long long to, unsigned char byte, size_t bytes,
                       CUstream_st* stream) {
  ENTER
  char* const out = Alias(to, bytes);
  Begin(stream, [=] { std::memset(out, byte, bytes); });
  return 0;
}

Result cuEventCreate(CUevent_st** event, unsigned) {
  ENTER
  *event = new CUevent_st{Current()};
  world().events.insert(*event);
  return 0;
}

Result cuEventRecord(CUevent_st* event, CUstream_st* stream) {
  ENTER
  if (Known(event) != 0 || event->context != stream->context) return kInvalidHandle;
  World& w = world();
  const uint64_t ticket = ++event->recorded;
  stream->work.push_back([=, &w] {
    Sleep(w.event_us);
    std::lock_guard<std::mutex> guard(w.mutex);
    if (Known(event) != 0) Die("an event is destroyed before it has passed");
    event->passed = ticket;
    w.changed.notify_all();
  });
  w.changed.notify_all();
  return 0;
}

Result cuEventQuery(CUevent_st* event) {
  ENTER
  if (Known(event) != 0) return kInvalidHandle;
  return event->passed >= event->recorded ? 0 : kNotReady;
}

Result cuEventSynchronize(CUevent_st* event) {
  ENTER
  if (Known(event) != 0) return kInvalidHandle;
  const uint64_t ticket = event->recorded;
  world().changed.wait(lock, [=] { return event->passed >= ticket; });
  return 0;
}

Result cuEventDestroy_v2(CUevent_st* event) {
  ENTER
  if (world().events.erase(event) == 0) return kInvalidHandle;
  delete event;
  return 0;
}

// -- the tests' ------------------------------------------------------------------------------------
// The call of the function that is the n-th from now answers `result`; n = 0: none does.
void fake_fail(const char* name, long n, Result result) {
  std::lock_guard<std::mutex> lock(world().mutex);
  world().failures.erase(name);
  if (n > 0) world().failures[name] = {world().calls[name] + n, result};
}

long fake_calls(const char* name) {
  std::lock_guard<std::mutex> lock(world().mutex);
  return world().calls[name];
}

// A kernel of another library: out = factor * in.
void fake_scale(uintptr_t out, uintptr_t in, long count, float factor, CUstream_st* stream) {
  std::lock_guard<std::mutex> lock(world().mutex);
  const size_t bytes = count * sizeof(float);
  auto* to = reinterpret_cast<float*>(Alias(out, bytes));
  auto* from = reinterpret_cast<const float*>(Alias(in, bytes));
  Begin(stream, [=] {
    for (long i = 0; i < count; ++i) to[i] = factor * from[i];
  });
}

// A kernel on XLA's stream of that device which ends when it is let go: a collective, of which this is the
// first device.
void fake_hold(int device) {
  CUstream_st* stream = StreamOf(device);
  World& w = world();
  std::lock_guard<std::mutex> lock(w.mutex);
  w.holding = true;
  Begin(stream, [&w] {
    std::unique_lock<std::mutex> waiting(w.mutex);
    w.changed.wait(waiting, [&w] { return !w.holding; });
  });
}

void fake_let_go() {
  std::lock_guard<std::mutex> lock(world().mutex);
  world().holding = false;
  world().changed.notify_all();
}

// A stream, and memory, of another library, on that device.
CUstream_st* fake_stream(int device, int number) { return StreamOf(device, number); }

uintptr_t fake_allocate(size_t bytes) {
  std::lock_guard<std::mutex> lock(world().mutex);
  return AllocateDevice(bytes);
}

void fake_delay(int copy_us, int event_us) {
  std::lock_guard<std::mutex> lock(world().mutex);
  world().copy_us = copy_us;
  world().event_us = event_us;
}

void fake_capture(int on) {
  std::lock_guard<std::mutex> lock(world().mutex);
  world().capturing = on;
}

long fake_pageable_copies() {
  std::lock_guard<std::mutex> lock(world().mutex);
  return world().pageable_copies;
}

size_t fake_most_locked_bytes() {
  std::lock_guard<std::mutex> lock(world().mutex);
  return world().most_locked_bytes;
}

size_t fake_locked_bytes() {
  std::lock_guard<std::mutex> lock(world().mutex);
  return world().locked_bytes;
}

long fake_events() {
  std::lock_guard<std::mutex> lock(world().mutex);
  return static_cast<long>(world().events.size());
}
}
