#include "copies.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>

#include "helpers.h"

namespace callbax {
namespace {

constexpr std::chrono::microseconds kShortWait{30};
// Large enough to hide what it costs to begin a copy, small enough that the last one is soon there.
constexpr int64_t kPiece = int64_t{1} << 20;
constexpr size_t kTurn = size_t{8} << 20;
// From here on helpers are worth waking. Few threads have all that the memory can do.
constexpr size_t kWorthSplitting = size_t{8} << 20;
constexpr int64_t kMostThreads = 4;

// Of a memcpy; with `onward` each piece then travels on from there.
class Pieces final : public SplitWork {
 public:
  Pieces(char* to, const char* from) : to_(to), from_(from) {}
  Pieces(char* to, const char* from, const StreamCopies& onward, CudaPointer device,
         CudaContext context)
      : to_(to), from_(from), onward_(&onward), device_(device), context_(context) {}

  // Throws what the first failed piece threw.
  void RunAll(size_t bytes) {
    const ThreadPool pool = PoolOfHelpers();
    const int64_t threads =
        bytes < kWorthSplitting ? 1 : std::min(kMostThreads, pool.threads(pool.context));
    RunSplit(*this, pool, threads, 0, static_cast<int64_t>(bytes), kPiece);
    if (failed_) std::rethrow_exception(error_);
  }

  void Run(int64_t begin, int64_t end) override {
    if (failed_) return;
    const auto bytes = static_cast<size_t>(end - begin);
    std::memcpy(to_ + begin, from_ + begin, bytes);
    if (onward_ == nullptr) return;
    Try([&] { onward_->ToDevice(device_ + static_cast<size_t>(begin), to_ + begin, bytes); });
  }

  void OnHelper(const std::function<void()>& run) override {
    if (onward_ == nullptr) return run();
    Try([&] { CALLBAX_CUDA(onward_->driver(), cuCtxSetCurrent, context_); });
    run();
    Try([&] { CALLBAX_CUDA(onward_->driver(), cuCtxSetCurrent, nullptr); });
  }

 private:
  template <class Step>
  void Try(const Step& step) {
    try {
      step();
    } catch (const CudaError&) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!failed_) error_ = std::current_exception();
      failed_ = true;
    }
  }

  char* const to_;
  const char* const from_;
  const StreamCopies* const onward_ = nullptr;
  const CudaPointer device_ = 0;
  const CudaContext context_ = nullptr;
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::exception_ptr error_;  // written with mutex_ before failed_
};

// The two blocks, each as far as a copy may be using it.
struct Turns {
  Turns(PinnedPool& pool, CudaContext context, CudaStream stream) {
    for (auto& block : blocks) {
      StagingBlock* taken = pool.TakeLocked(context, stream, kTurn);
      if (taken == nullptr) return;
      block = std::make_unique<HeldBlock>(pool, taken);
    }
    complete = true;
  }
  HeldBlock& at(size_t turn) { return *blocks[turn % 2]; }

  std::unique_ptr<HeldBlock> blocks[2];
  bool complete = false;
};

}  // namespace

void CopySplit(char* to, const char* from, size_t bytes) { Pieces(to, from).RunAll(bytes); }

void StreamCopies::ToHost(void* host, CudaPointer device, size_t bytes) const {
  CALLBAX_CUDA(driver_, cuMemcpyDtoHAsync_v2, host, device, bytes, stream_);
}

void StreamCopies::ToDevice(CudaPointer device, const void* host, size_t bytes) const {
  CALLBAX_CUDA(driver_, cuMemcpyHtoDAsync_v2, device, host, bytes, stream_);
}

void StreamCopies::ToDeviceThrough(char* locked, CudaPointer device, const char* source,
                                   size_t bytes, CudaContext context) const {
  Pieces(locked, source, *this, device, context).RunAll(bytes);
}

bool StreamCopies::ToHostInTurn(PinnedPool& pool, CudaContext context, char* host,
                                CudaPointer device, size_t bytes) const {
  Turns turns(pool, context, stream_);
  if (!turns.complete) return false;
  const auto size = [=](size_t turn) { return std::min(kTurn, bytes - turn * kTurn); };
  const auto begin = [&](size_t turn) {
    HeldBlock& held = turns.at(turn);
    held.is_copied = true;
    ToHost(held->memory, device + turn * kTurn, size(turn));
    Record(held->event);
  };
  begin(0);
  for (size_t turn = 0; turn * kTurn < bytes; ++turn) {
    if ((turn + 1) * kTurn < bytes) begin(turn + 1);
    HeldBlock& held = turns.at(turn);
    Await(held->event);
    held.is_copied = false;
    CopySplit(host + turn * kTurn, held->memory, size(turn));
  }
  return true;
}

bool StreamCopies::ToDeviceInTurn(PinnedPool& pool, CudaContext context, CudaPointer device,
                                  const char* source, size_t bytes) const {
  Turns turns(pool, context, stream_);
  if (!turns.complete) return false;
  for (size_t turn = 0; turn * kTurn < bytes; ++turn) {
    HeldBlock& held = turns.at(turn);
    if (held.is_copied) Await(held->event);
    const size_t size = std::min(kTurn, bytes - turn * kTurn);
    CopySplit(held->memory, source + turn * kTurn, size);
    held.is_copied = true;
    ToDevice(device + turn * kTurn, held->memory, size);
    Record(held->event);
  }
  for (auto& block : turns.blocks) {
    if (block->is_copied) block->ReturnBehind(stream_);
  }
  return true;
}

void StreamCopies::Record(CudaEvent event) const {
  CALLBAX_CUDA(driver_, cuEventRecord, event, stream_);
}

// A short wait costs less by asking than by sleeping.
void StreamCopies::Await(CudaEvent event) const {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + kShortWait;
  do {
    const CudaResult result = driver_.cuEventQuery(event);
    if (result == kCudaSuccess) return;
    if (result != kCudaNotReady) throw CudaError(driver_, "cuEventQuery", result);
  } while (Clock::now() < end);
  CALLBAX_CUDA(driver_, cuEventSynchronize, event);
}

}  // namespace callbax
