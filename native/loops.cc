#include "loops.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "floating_point.h"
#include "loop_conversion.h"
#include "name_table.h"
#include "xla_types.h"

namespace callbax {
namespace {

// A helper takes 5-20 us to start; below this, one thread is faster.
constexpr float kWorthSplitting = 60e3f;  // ns
// Large enough to hide the counters, small enough to even out threads of unequal speed.
constexpr float kChunk = 25e3f;           // ns
// Timing costs 50 ns, so short calls are not timed.
constexpr int64_t kTimedItems = 128;
// The first items of an unknown loop, with which its cost is measured.
constexpr int64_t kProbe = 16;
// Elements of one argument that are converted at a time: they stay in the first-level cache.
constexpr int64_t kBlock = 1024;

// Never destroyed: executables may be freed after static destructors have run.
NameTable<Loop>& table() {
  static NameTable<Loop>* instance = new NameTable<Loop>;
  return *instance;
}

using Clock = std::chrono::steady_clock;

float NanosecondsSince(Clock::time_point start) {
  return std::chrono::duration<float, std::nano>(Clock::now() - start).count();
}

// The loop's arguments for a range of items.
struct Frame {
  char* args[kMaxLoopArguments];
  intptr_t dims[1 + kMaxCoreDimensions];
  intptr_t steps[kMaxLoopArguments * (1 + kMaxCoreDimensions)];
};

// Everything but args[], dims[0] and the steps from item to item, which differ between ranges.
void FillCore(const LoopCall& call, Frame* frame) {
  const Loop& loop = *call.loop;
  for (size_t d = 0; d < loop.core_dimensions; ++d) frame->dims[1 + d] = call.core_sizes[d];
  intptr_t* step = frame->steps + loop.arguments.size();
  for (const LoopArgument& argument : loop.arguments) {
    const size_t rank = argument.core.size();
    intptr_t stride = argument.itemsize;
    for (size_t k = rank; k-- > 0;) {
      step[k] = stride;
      stride *= call.core_sizes[argument.core[k]];
    }
    step += rank;
  }
}

void RunDirectly(const LoopCall& call, int64_t begin, int64_t end) {
  Frame frame;
  const size_t arguments = call.loop->arguments.size();
  for (size_t i = 0; i < arguments; ++i) {
    frame.args[i] = call.buffers[i].data + begin * call.buffers[i].stride;
    frame.steps[i] = call.buffers[i].stride;
  }
  frame.dims[0] = end - begin;
  if (call.loop->core_dimensions > 0) FillCore(call, &frame);
  call.loop->function(frame.args, frame.dims, frame.steps, call.loop->data);
}

// Buffers of narrower types pass through blocks of the loop's own type.
class Converter {
 public:
  Converter(const LoopCall& call) : call_(call), loop_(*call.loop) {
    int64_t largest = 1;
    for (size_t i = 0; i < loop_.arguments.size(); ++i) {
      largest = std::max(largest, call.buffers[i].elements);
    }
    items_ = std::max<int64_t>(1, kBlock / largest);
    size_t bytes = 0;
    for (size_t i = 0; i < loop_.arguments.size(); ++i) {
      offsets_[i] = bytes;
      // Each block begins at a multiple of 64 bytes.
      if (Converts(i)) bytes += (static_cast<size_t>(items_ * ItemBytes(i)) + 63) / 64 * 64;
    }
    storage_.resize(bytes + 64);
    base_ = storage_.data() + (64 - reinterpret_cast<uintptr_t>(storage_.data()) % 64);
  }

  void Run(int64_t begin, int64_t end) {
    FillCore(call_, &frame_);
    for (int64_t at = begin; at < end; at += items_) RunBlock(at, std::min(items_, end - at));
  }

 private:
  bool Converts(size_t i) const { return call_.buffers[i].code != loop_.arguments[i].code; }
  int64_t ItemBytes(size_t i) const {
    return call_.buffers[i].elements * loop_.arguments[i].itemsize;
  }

  void RunBlock(int64_t at, int64_t items) {
    for (size_t i = 0; i < loop_.arguments.size(); ++i) {
      const LoopBuffer& buffer = call_.buffers[i];
      char* data = buffer.data + at * buffer.stride;
      frame_.args[i] = data;
      frame_.steps[i] = buffer.stride;
      if (!Converts(i)) continue;
      frame_.args[i] = base_ + offsets_[i];
      const bool repeated = buffer.stride == 0 && i < loop_.operands;
      frame_.steps[i] = repeated ? 0 : ItemBytes(i);
      if (i < loop_.operands) {
        Widen(buffer.code, data, (repeated ? 1 : items) * buffer.elements, frame_.args[i]);
      }
    }
    frame_.dims[0] = items;
    loop_.function(frame_.args, frame_.dims, frame_.steps, loop_.data);
    for (size_t i = loop_.operands; i < loop_.arguments.size(); ++i) {
      const LoopBuffer& buffer = call_.buffers[i];
      if (!Converts(i)) continue;
      // Not frame_.args[i], which belongs to the loop: SciPy's advance it from item to item.
      const char* computed = base_ + offsets_[i];
      Narrow(buffer.code, computed, items * buffer.elements, buffer.data + at * buffer.stride);
    }
  }

  const LoopCall& call_;
  const Loop& loop_;
  int64_t items_ = 1;  // in a block
  size_t offsets_[kMaxLoopArguments] = {};
  std::vector<char> storage_;
  char* base_ = nullptr;
  Frame frame_;
};

void RunRange(const LoopCall& call, int64_t begin, int64_t end) {
  if (call.converts) {
    Converter(call).Run(begin, end);
  } else {
    RunDirectly(call, begin, end);
  }
}

// XLA's floating-point mode off, and what the guard asks for, on the thread that runs the loop.
class OnThread {
 public:
  explicit OnThread(LoopGuard* guard) : guard_(guard) {
    if (guard_ != nullptr) guard_->Enter();
  }
  ~OnThread() {
    if (guard_ != nullptr) guard_->Leave();
  }
  OnThread(const OnThread&) = delete;
  OnThread& operator=(const OnThread&) = delete;

 private:
  OrdinaryFloatingPoint floating_point_;  // before the guard looks at the flags
  LoopGuard* guard_;
};

// The chunks of one call. Shared by the caller and its helpers.
class Chunks {
 public:
  Chunks(const LoopCall& call, LoopGuard* guard, int64_t begin, int64_t chunk)
      : call_(call), guard_(guard), next_(begin), unfinished_(call.count - begin), chunk_(chunk) {}

  // On a helper. The guard, like the buffers, is there only while a chunk is unfinished.
  void Help() {
    int64_t begin = next_.fetch_add(chunk_);
    if (begin >= call_.count) return;
    int64_t done = 0;
    {
      OnThread on_thread(guard_);
      for (; begin < call_.count; begin = next_.fetch_add(chunk_)) done += RunOne(begin);
    }
    Finish(done);
  }

  // On the calling thread, already inside an OnThread.
  void Work() {
    int64_t done = 0;
    for (int64_t at = next_.fetch_add(chunk_); at < call_.count; at = next_.fetch_add(chunk_)) {
      done += RunOne(at);
    }
    Finish(done);
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return unfinished_ == 0; });
  }

 private:
  int64_t RunOne(int64_t begin) {
    const int64_t end = std::min(begin + chunk_, call_.count);
    RunRange(call_, begin, end);
    return end - begin;
  }
  void Finish(int64_t items) {
    std::lock_guard<std::mutex> lock(mutex_);
    unfinished_ -= items;
    if (unfinished_ == 0) finished_.notify_one();
  }

  const LoopCall call_;
  LoopGuard* const guard_;
  std::atomic<int64_t> next_;
  std::mutex mutex_;
  std::condition_variable finished_;
  int64_t unfinished_;  // items; guarded by mutex_
  const int64_t chunk_;
};

void HelpWithChunks(void* data) {
  const std::unique_ptr<std::shared_ptr<Chunks>> chunks(static_cast<std::shared_ptr<Chunks>*>(data));
  (*chunks)->Help();
}

void RunSplit(const LoopCall& call, const Pool& pool, int64_t threads, LoopGuard* guard,
              int64_t begin, float item_cost) {
  const int64_t items = call.count - begin;
  const auto smallest = static_cast<int64_t>(kChunk / std::max(item_cost, 1e-3f));
  const int64_t chunk = std::clamp<int64_t>(items / (threads * 16), std::max<int64_t>(1, smallest),
                                            std::max<int64_t>(1, items));
  const auto chunks = std::make_shared<Chunks>(call, guard, begin, chunk);
  const int64_t helpers = std::min(threads, (items + chunk - 1) / chunk) - 1;
  for (int64_t i = 0; i < helpers; ++i) {
    auto data = std::make_unique<std::shared_ptr<Chunks>>(chunks);
    if (!pool.schedule(pool.context, HelpWithChunks, data.get())) break;
    data.release();  // the task's now
  }
  chunks->Work();
  chunks->Wait();
}

}  // namespace

Loop::~Loop() {
  table().Remove(name);
  if (drop != nullptr) drop(owner);
}

LoopPtr FindLoop(const std::string& name) { return table().Find(name); }

LoopPtr AddLoop(LoopPtr loop) { return table().Add(loop->name, loop); }

size_t LiveLoops() { return table().size(); }

int NarrowCode(int code) noexcept {
  switch (code) {
    case kFloat64: return kFloat32;
    case kComplex128: return kComplex64;
    case kInt64: return kInt32;
    case kUint64: return kUint32;
    default: return 0;
  }
}

void RunLoop(const LoopCall& call, const Pool& pool, LoopGuard* guard, std::atomic<float>* cost) {
  OnThread on_thread(guard);
  const float known = cost->load(std::memory_order_relaxed);
  const auto items = static_cast<float>(call.count);
  // One item cannot be split, and what is known to be short need not be timed.
  if (call.count < 2 || (known > 0 && known * items < kWorthSplitting && call.count < kTimedItems)) {
    RunRange(call, 0, call.count);
    return;
  }
  const Clock::time_point start = Clock::now();
  int64_t done = 0;
  if (known == 0 || known * items >= kWorthSplitting) {
    // The first items tell what an item costs with these values.
    int64_t probe = known == 0 ? kProbe : static_cast<int64_t>(kChunk / 4 / known);
    float elapsed = 0;
    while (done < call.count && elapsed < kChunk / 8) {
      const int64_t end = std::min(call.count, done + std::max<int64_t>(1, probe));
      RunRange(call, done, end);
      done = end;
      probe *= 8;
      elapsed = NanosecondsSince(start);
    }
    const float measured = std::max(elapsed / static_cast<float>(done), 1e-3f);
    cost->store(measured, std::memory_order_relaxed);
    if (measured * static_cast<float>(call.count - done) >= kWorthSplitting) {
      const int64_t threads = pool.threads(pool.context);
      if (threads > 1) return RunSplit(call, pool, threads, guard, done, measured);
    }
    if (done < call.count) RunRange(call, done, call.count);
    return;
  }
  RunRange(call, 0, call.count);
  cost->store(NanosecondsSince(start) / items, std::memory_order_relaxed);
}

}  // namespace callbax
