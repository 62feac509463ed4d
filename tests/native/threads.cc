// Threads that meet in the native parts that use no Python: the registry, the block pool, the loops.
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
#include "loops.h"
#include "registry.h"

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
  ThreadPool pool() { return {this, [](void*) { return int64_t{4}; }, Schedule}; }

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

}  // namespace

int main() {
  CalleesComeAndGo();
  BlocksAreHandedOutOnce();
  LoopsAreSplit<double>(12);
  LoopsAreSplit<float>(11);
  std::puts("done");
}
