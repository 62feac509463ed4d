#include "block_pool.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <unordered_map>

#include <pthread.h>

#include "system.h"

namespace callbax {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kAlignment = 64;
constexpr size_t kPage = 4096;
constexpr std::chrono::milliseconds kKeep{1000};

struct Idle {
  void* memory;
  Clock::time_point since;
};

// Never destroyed: arrays may be freed after static destructors have run.
struct BlockPool {
  std::mutex mutex;
  std::condition_variable changed;
  std::multimap<size_t, Idle> idle;         // by size; guarded by mutex
  std::unordered_map<void*, size_t> sizes;  // of the blocks handed out; guarded by mutex
  size_t idle_bytes = 0;                    // guarded by mutex
  size_t live_bytes = 0;                    // guarded by mutex
  bool reaper_runs = false;                 // guarded by mutex
};

BlockPool* pool_instance = nullptr;

// A forked child has no reaper thread; it starts its own when it needs one. The condition variable
// may have had a waiter, so the child gets a new one.
void BeforeFork() { pool_instance->mutex.lock(); }
void AfterForkInParent() { pool_instance->mutex.unlock(); }
void AfterForkInChild() {
  new (&pool_instance->changed) std::condition_variable;
  pool_instance->reaper_runs = false;
  pool_instance->mutex.unlock();
}

BlockPool& pool() {
  static BlockPool* instance = [] {
    pool_instance = new BlockPool;
    pthread_atfork(BeforeFork, AfterForkInParent, AfterForkInChild);
    return pool_instance;
  }();
  return *instance;
}

// Frees blocks that have been idle for kKeep. Never ends; sleeps while nothing is idle.
void Reap() {
  BlockPool& p = pool();
  std::unique_lock<std::mutex> lock(p.mutex);
  for (;;) {
    if (p.idle.empty()) {
      p.changed.wait(lock);
      continue;
    }
    p.changed.wait_for(lock, kKeep / 4);
    const Clock::time_point now = Clock::now();
    for (auto it = p.idle.begin(); it != p.idle.end();) {
      if (now - it->second.since < kKeep) {
        ++it;
        continue;
      }
      std::free(it->second.memory);
      p.idle_bytes -= it->first;
      it = p.idle.erase(it);
    }
  }
}

size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

void* TakeBlock(size_t bytes) {
  BlockPool& p = pool();
  const size_t wanted = RoundUp(bytes == 0 ? 1 : bytes, bytes >= kHugePage ? kHugePage : kPage);
  {
    std::lock_guard<std::mutex> lock(p.mutex);
    auto found = p.idle.lower_bound(wanted);
    if (found != p.idle.end() && found->first <= wanted + wanted / 4) {
      void* memory = found->second.memory;
      p.sizes.emplace(memory, found->first);
      p.idle_bytes -= found->first;
      p.live_bytes += found->first;
      p.idle.erase(found);
      return memory;
    }
  }
  void* memory = std::aligned_alloc(wanted >= kHugePage ? kHugePage : kAlignment, wanted);
  if (memory == nullptr) throw std::bad_alloc();
  AdviseHugePages(memory, wanted);
  std::lock_guard<std::mutex> lock(p.mutex);
  p.sizes.emplace(memory, wanted);
  p.live_bytes += wanted;
  return memory;
}

void ReturnBlock(void* memory) noexcept {
  BlockPool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  auto found = p.sizes.find(memory);
  const size_t size = found->second;
  p.sizes.erase(found);
  p.live_bytes -= size;
  p.idle.emplace(size, Idle{memory, Clock::now()});
  p.idle_bytes += size;
  if (p.reaper_runs) {
    if (p.idle.size() == 1) p.changed.notify_one();
    return;
  }
  try {
    std::thread(Reap).detach();
    p.reaper_runs = true;
  } catch (const std::system_error&) {
    // No thread can be started: the block stays idle until one is, or is handed out again.
  }
}

BlockStatistics CountBlocks() noexcept {
  BlockPool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  return {p.idle_bytes, p.live_bytes};
}

}  // namespace callbax
