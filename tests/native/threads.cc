// Threads that meet in the native parts that use no Python: the registry, the block pool, the loops; for
// GPUs the page-locked blocks, the worker and the watch.
// Built and run under ThreadSanitizer by tests/project/test_thread_sanitizer.py.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "block_pool.h"
#include "cuda_driver.h"
#include "long_calls.h"
#include "loops.h"
#include "pinned.h"
#include "registry.h"
#include "worker.h"

namespace {

using namespace callbax;

constexpr int kThreads = 6;

void Check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

// Starts all threads at the same moment.
void Together(const std::function<void(int)>& work) {
  std::atomic<int> waiting{kThreads};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      work(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void CalleesComeAndGo() {
  Together([](int thread) {
    for (int i = 0; i < 3000; ++i) {
      const std::string name = "name " + std::to_string(i % 5);
      const auto target = std::make_shared<int>(thread);
      const CalleePtr callee = AddCallee(std::make_shared<Callback>(name, target));
      Check(callee->name() == name && callee->target() != nullptr, "a callee has its own name");
      callee->SetContext(target);
      callee->Context();
      const CalleePtr found = FindCallee(name);
      Check(found == callee, "a living callee is found by its name");
    }
  });
  Check(LiveCallees() == 0, "the table keeps nothing alive");
}

void BlocksAreHandedOutOnce() {
  Together([](int thread) {
    std::vector<char*> blocks;
    for (int i = 0; i < 2000; ++i) {
      const size_t bytes = size_t{1000} << (i % 4);
      auto* block = static_cast<char*>(TakeBlock(bytes));
      std::memset(block, thread, bytes);
      blocks.push_back(block);
      if (blocks.size() < 4) continue;
      Check(blocks[i % 4][0] == thread, "nobody else writes to a block");
      ReturnBlock(blocks[i % 4]);
      blocks.erase(blocks.begin() + i % 4);
    }
    for (char* block : blocks) ReturnBlock(block);
  });
  Check(CountBlocks().live_bytes == 0, "all blocks came back");
}

// A pool that runs each task on a thread of its own, in part long after the loop has ended.
class LateThreads {
 public:
  ~LateThreads() {
    for (std::thread& thread : threads_) thread.join();
  }
  ThreadPool pool() {
    return {this, [](void*) { return int64_t{4}; }, Schedule};
  }

 private:
  static bool Schedule(void* context, void (*task)(void*), void* data) {
    auto& self = *static_cast<LateThreads*>(context);
    const int number = self.scheduled_++;
    if (number % 7 == 6) return false;
    std::lock_guard<std::mutex> lock(self.mutex_);
    self.threads_.emplace_back([task, data, number] {
      if (number % 3 == 2) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      task(data);
    });
    return true;
  }

  std::atomic<int> scheduled_{0};
  std::mutex mutex_;
  std::vector<std::thread> threads_;  // guarded by mutex_
};

void Square(char** args, const intptr_t* dims, const intptr_t* steps, void*) {
  for (intptr_t i = 0; i < dims[0]; ++i) {
    double x;
    std::memcpy(&x, args[0] + i * steps[0], sizeof x);
    for (int k = 0; k < 20; ++k) x = x * x / (x + 1e-300);  // costs enough to be split
    x *= x;
    std::memcpy(args[1] + i * steps[1], &x, sizeof x);
  }
}

// Of XLA's types 12 (float64) in the loop, `code` in the buffers.
template <class T>
void LoopsAreSplit(int code) {
  auto loop = std::make_shared<Loop>("square", nullptr);
  loop->function = Square;
  loop->operands = 1;
  loop->arguments = {{12, 8, {}}, {12, 8, {}}};
  LoopSite site;
  site.loop = loop;
  LateThreads threads;
  Together([&](int thread) {
    for (int run = 0; run < 4; ++run) {
      std::vector<T> in(20000, static_cast<T>(thread));
      std::vector<T> out(in.size(), T{-1});
      LoopCall call;
      call.loop = loop.get();
      call.count = static_cast<int64_t>(in.size());
      call.converts = code != 12;
      call.buffers[0] = {reinterpret_cast<char*>(in.data()), code, sizeof(T), 1};
      call.buffers[1] = {reinterpret_cast<char*>(out.data()), code, sizeof(T), 1};
      RunLoop(site, call, threads.pool(), nullptr);
      for (T value : out) Check(value == static_cast<T>(thread * thread), "each item is computed");
    }
  });
}

// -- for GPUs --------------------------------------------------------------------------------------
// A driver whose events have passed when they are asked for the second time.
using Event = std::atomic<int>;
Event* Of(CudaEvent event) { return reinterpret_cast<Event*>(event); }

CudaDriver Driver() {
  CudaDriver driver;
  driver.cuMemHostAlloc = [](void** memory, size_t bytes, unsigned) {
    *memory = std::malloc(bytes);
    return *memory ? kCudaSuccess : 2;
  };
  driver.cuMemFreeHost = [](void* memory) {
    std::free(memory);
    return kCudaSuccess;
  };
  driver.cuEventCreate = [](CudaEvent* event, unsigned) {
    *event = reinterpret_cast<CudaEvent>(new Event(0));
    return kCudaSuccess;
  };
  driver.cuEventRecord = [](CudaEvent event, CudaStream) {
    *Of(event) = 2;
    return kCudaSuccess;
  };
  driver.cuEventQuery = [](CudaEvent event) {
    return --*Of(event) > 0 ? kCudaNotReady : kCudaSuccess;
  };
  driver.cuEventSynchronize = [](CudaEvent event) {
    *Of(event) = 0;
    return kCudaSuccess;
  };
  driver.cuEventDestroy_v2 = [](CudaEvent event) {
    delete Of(event);
    return kCudaSuccess;
  };
  return driver;
}

void LockedBlocksAreHandedOutOnce() {
  setenv("CALLBAX_PINNED_LIMIT", "200000", 1);
  static const CudaDriver driver = Driver();
  PinnedPool& pool = PinnedPool::Get(driver);
  static char contexts[2], streams[kThreads];
  Together([&](int thread) {
    const auto context = reinterpret_cast<CudaContext>(&contexts[thread % 2]);
    const auto stream = reinterpret_cast<CudaStream>(&streams[thread]);
    for (int i = 0; i < 2000; ++i) {
      const size_t bytes = size_t{4096} << (i % 4);
      StagingBlock* block = pool.Take(context, stream, bytes);
      Check(block->context == context && block->size >= bytes, "a block is as it was wanted");
      std::memset(block->memory, thread, bytes);
      Check(block->memory[bytes - 1] == thread, "nobody else writes to a block");
      if (i % 3 == 0) {
        pool.Return(block);
      } else {
        pool.ReturnBehind(block, stream);
      }
    }
  });
  const PinnedStatistics left = pool.Count();
  Check(left.held == 0 && left.lost == 0, "all blocks came back");
  Check(left.idle + left.in_flight <= pool.limit(), "the limit holds");
}

void DetachedCallsRunInTheirOrder() {
  Worker& worker = Worker::Get();
  static int last[kThreads];  // touched by the worker alone, until it has been waited for
  static size_t most = 0;
  Together([&](int thread) {
    for (int i = 1; i <= 3000; ++i) {
      worker.AwaitRoom(100, 5000);
      worker.Add(100, [thread, i, &worker] {
        Check(Worker::IsThis() && last[thread] == i - 1, "calls of a thread run in its order");
        last[thread] = i;
        if (worker.Count() > most) most = worker.Count();
      });
      if (i % 500 == 0) {
        worker.Await(Worker::kForEver);
        Check(last[thread] == i, "what was added is waited for");
      }
    }
  });
  Check(worker.Count() == 0 && most <= 50 + kThreads, "no more calls wait than may");
}

void LongCallsAreToldOfOnce() {
  static std::atomic<int> told{0};
  WatchLongCalls(std::chrono::milliseconds{1}, [](const std::shared_ptr<Callback>&) { ++told; });
  Together([](int thread) {
    const auto callback = std::make_shared<Callback>("callback", std::make_shared<int>(thread));
    for (int i = 0; i < 3000; ++i) WatchedCall call(callback);
    const int before = told;
    WatchedCall call(callback);
    while (told == before) std::this_thread::yield();
  });
}

}  // namespace

int main() {
  CalleesComeAndGo();
  BlocksAreHandedOutOnce();
  LoopsAreSplit<double>(12);
  LoopsAreSplit<float>(11);
  LockedBlocksAreHandedOutOnce();
  DetachedCallsRunInTheirOrder();
  LongCallsAreToldOfOnce();
  std::puts("done");
}
