#include "helpers.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "floating_point.h"
#include "python.h"

namespace callbax {
namespace {

// Never destroyed: helpers may outlive static destructors.
struct Helpers {
  std::mutex mutex;
  std::condition_variable asked;
  std::deque<std::function<void()>> tasks;  // guarded by mutex
  size_t idle = 0;                          // helpers that wait; guarded by mutex
};

Helpers& helpers() {
  static Helpers* instance = new Helpers;
  return *instance;
}

thread_local bool is_helper = false;

void Serve() {
  is_helper = true;
  Helpers& h = helpers();
  std::unique_lock<std::mutex> lock(h.mutex);
  for (;;) {
    while (h.tasks.empty()) {
      ++h.idle;
      h.asked.wait(lock);
      --h.idle;
    }
    std::function<void()> task = std::move(h.tasks.front());
    h.tasks.pop_front();
    lock.unlock();
    task();
    task = nullptr;
    lock.lock();
  }
}

std::atomic<int64_t> pool_tasks{0};  // of PoolOfHelpers, that have not ended

int64_t Processors(void*) { return std::max(1u, std::thread::hardware_concurrency()); }

bool Schedule(void* context, void (*task)(void*), void* data) {
  const auto run = [task, data] {
    task(data);
    --pool_tasks;
  };
  if (++pool_tasks <= Processors(context) && RunOnHelper(run)) return true;
  --pool_tasks;
  return false;
}

}  // namespace

ThreadPool PoolOfHelpers() noexcept { return {nullptr, Processors, Schedule}; }

bool OnPoolThread() noexcept {
  return !is_helper && (GilScope::OnForeignThread() || PyGILState_GetThisThreadState() == nullptr);
}

bool RunOnHelper(std::function<void()> task) {
  Helpers& h = helpers();
  const FloatingPointMode mode;
  std::lock_guard<std::mutex> lock(h.mutex);
  // One that was woken and has not come yet still counts as idle.
  if (h.idle <= h.tasks.size()) {
    try {
      std::thread(Serve).detach();
    } catch (const std::system_error&) {
      return false;
    }
  }
  h.tasks.push_back([mode, task = std::move(task)] {
    mode.Apply();
    task();
  });
  h.asked.notify_one();
  return true;
}

}  // namespace callbax
