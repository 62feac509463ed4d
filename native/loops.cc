#include "loops.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "floating_point.h"

namespace callbax {
namespace {

// A helper takes 5-20 us to start; below this, one thread is faster.
constexpr float kWorthSplitting = 60e3f;  // ns
// Large enough to hide the counters, small enough to even out threads of unequal speed.
constexpr float kChunk = 25e3f;  // ns
// Timing costs 50 ns, so short calls are not timed.
constexpr int64_t kTimedItems = 128;
// The first items of an unknown loop, with which its cost is measured.
constexpr int64_t kProbe = 16;
using Clock = std::chrono::steady_clock;

float NanosecondsSince(Clock::time_point start) {
  return std::chrono::duration<float, std::nano>(Clock::now() - start).count();
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

// The chunks of some work. Shared by the caller and its helpers.
class Chunks {
 public:
  Chunks(SplitWork& work, int64_t begin, int64_t end, int64_t chunk)
      : work_(work), next_(begin), end_(end), unfinished_(end - begin), chunk_(chunk) {}

  // On a helper. The work is there only while a chunk is unfinished.
  void Help() {
    const int64_t begin = next_.fetch_add(chunk_);
    if (begin >= end_) return;
    int64_t done = 0;
    work_.OnHelper([&] { done = RunFrom(begin); });
    Finish(done);
  }

  // On the calling thread.
  void Work() { Finish(RunFrom(next_.fetch_add(chunk_))); }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return unfinished_ == 0; });
  }

 private:
  // The chunk at `begin`, and then others while there are any. Returns how many items these had.
  int64_t RunFrom(int64_t begin) {
    int64_t done = 0;
    for (; begin < end_; begin = next_.fetch_add(chunk_)) {
      const int64_t end = std::min(begin + chunk_, end_);
      work_.Run(begin, end);
      done += end - begin;
    }
    return done;
  }
  void Finish(int64_t items) {
    std::lock_guard<std::mutex> lock(mutex_);
    unfinished_ -= items;
    if (unfinished_ == 0) finished_.notify_one();
  }

  SplitWork& work_;
  std::atomic<int64_t> next_;
  const int64_t end_;
  std::mutex mutex_;
  std::condition_variable finished_;
  int64_t unfinished_;  // items; guarded by mutex_
  const int64_t chunk_;
};

void HelpWithChunks(void* data) {
  const std::unique_ptr<std::shared_ptr<Chunks>> chunks(
      static_cast<std::shared_ptr<Chunks>*>(data));
  (*chunks)->Help();
}

// The items of a loop.
class LoopWork final : public SplitWork {
 public:
  LoopWork(const LoopCall& call, LoopGuard* guard) : call_(call), guard_(guard) {}
  void Run(int64_t begin, int64_t end) override { RunRange(call_, begin, end); }
  void OnHelper(const std::function<void()>& run) override {
    OnThread on_thread(guard_);
    run();
  }

 private:
  const LoopCall& call_;
  LoopGuard* const guard_;
};

// Of what is left of a call from `begin` on, on a thread that is already inside an OnThread.
void SplitLoop(const LoopCall& call, const ThreadPool& pool, int64_t threads, LoopGuard* guard,
               int64_t begin, float item_cost) {
  const int64_t items = call.count - begin;
  const auto smallest = static_cast<int64_t>(kChunk / std::max(item_cost, 1e-3f));
  const int64_t chunk = std::clamp<int64_t>(items / (threads * 16), std::max<int64_t>(1, smallest),
                                            std::max<int64_t>(1, items));
  LoopWork work(call, guard);
  RunSplit(work, pool, threads, begin, call.count, chunk);
}

}  // namespace

void RunSplit(SplitWork& work, const ThreadPool& pool, int64_t threads, int64_t begin, int64_t end,
              int64_t chunk) {
  const auto chunks = std::make_shared<Chunks>(work, begin, end, chunk);
  const int64_t helpers = std::min(threads, (end - begin + chunk - 1) / chunk) - 1;
  for (int64_t i = 0; i < helpers; ++i) {
    auto data = std::make_unique<std::shared_ptr<Chunks>>(chunks);
    if (!pool.schedule(pool.context, HelpWithChunks, data.get())) break;
    data.release();  // the task's now
  }
  chunks->Work();
  chunks->Wait();
}

void RunLoop(LoopSite& site, const LoopCall& call, const ThreadPool& pool, LoopGuard* guard) {
  OnThread on_thread(guard);
  const float known = site.cost.load(std::memory_order_relaxed);
  const auto items = static_cast<float>(call.count);
  // One item cannot be split, and what is known to be short need not be timed.
  if (call.count < 2 ||
      (known > 0 && known * items < kWorthSplitting && call.count < kTimedItems)) {
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
    site.cost.store(measured, std::memory_order_relaxed);
    if (measured * static_cast<float>(call.count - done) >= kWorthSplitting) {
      const int64_t threads = site.serial ? 1 : pool.threads(pool.context);
      if (threads > 1) return SplitLoop(call, pool, threads, guard, done, measured);
    }
    if (done < call.count) RunRange(call, done, call.count);
    return;
  }
  RunRange(call, 0, call.count);
  site.cost.store(NanosecondsSince(start) / items, std::memory_order_relaxed);
}

}  // namespace callbax
