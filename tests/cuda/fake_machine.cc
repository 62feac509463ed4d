// The machine of fake_cuda.h: device memory, streams, contexts.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>

#include "fake_cuda.h"

namespace fake {

World& world() {
  static World* instance = new World;
  return *instance;
}

void Die(const char* what) {
  std::fprintf(stderr, "fake CUDA: %s\n", what);
  std::abort();
}

uintptr_t AllocateDevice(size_t bytes) {
  World& w = world();
  const size_t size = (bytes / 4096 + 1) * 4096;
  const auto found = w.free_device.find(size);
  if (found != w.free_device.end()) {
    const uintptr_t address = found->second;
    w.free_device.erase(found);
    return address;
  }
  const int file = memfd_create("device", 0);
  if (ftruncate(file, static_cast<off_t>(size)) != 0) Die("no memory for the device");
  void* alias = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  void* address = mmap(nullptr, size, PROT_NONE, MAP_SHARED, file, 0);
  close(file);
  if (alias == MAP_FAILED || address == MAP_FAILED) Die("no memory for the device");
  w.device[reinterpret_cast<uintptr_t>(address)] = {size, static_cast<char*>(alias)};
  return reinterpret_cast<uintptr_t>(address);
}

void FreeDevice(uintptr_t address) {
  World& w = world();
  w.free_device.emplace(w.device.at(address).first, address);
}

char* Alias(uintptr_t address, size_t bytes) {
  World& w = world();
  auto block = w.device.upper_bound(address);
  if (block == w.device.begin()) Die("a copy of memory that is not a device's");
  --block;
  if (address + bytes > block->first + block->second.first) Die("a copy beyond device memory");
  return block->second.second + (address - block->first);
}

namespace {

void Run(CUstream_st* stream) {
  World& w = world();
  for (;;) {
    std::function<void()> work;
    {
      std::unique_lock<std::mutex> lock(w.mutex);
      w.changed.wait(lock, [=] { return !stream->work.empty(); });
      work = std::move(stream->work.front());
      stream->work.pop_front();
    }
    work();
  }
}

thread_local CUctx_st* current = nullptr;

}  // namespace

CUstream_st* StreamOf(int device, int number) {
  static std::mutex mutex;
  static std::map<int, CUctx_st*> contexts;
  static std::map<std::pair<int, int>, CUstream_st*> streams;
  std::lock_guard<std::mutex> lock(mutex);
  CUctx_st*& context = contexts[device];
  if (context == nullptr) context = new CUctx_st;
  CUstream_st*& stream = streams[{device, number}];
  if (stream == nullptr) {
    stream = new CUstream_st(context);
    std::thread(Run, stream).detach();
  }
  return stream;
}

CUctx_st* Current() { return current; }

CUctx_st* MakeCurrent(CUctx_st* context) { return std::exchange(current, context); }

void AwaitCopies(CUstream_st* stream) {
  World& w = world();
  std::unique_lock<std::mutex> lock(w.mutex);
  w.changed.wait(lock, [=] { return stream->copies == 0; });
}

}  // namespace fake
