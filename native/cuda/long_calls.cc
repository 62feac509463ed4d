#include "long_calls.h"

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "system.h"

namespace callbax {
namespace {

using Clock = std::chrono::steady_clock;

// Never destroyed: its thread outlives static destructors.
struct Watch {
  std::mutex mutex;
  std::condition_variable wake;
  std::list<CallBegun> calls;  // the oldest first; guarded by mutex, as all of these
  uint64_t begun = 0;
  bool started = false;
  bool sleeps = false;
  Clock::duration limit{};
  void (*tell)(const std::shared_ptr<Callback>&) = nullptr;
};

Watch& watch() {
  static Watch* instance = new Watch;
  return *instance;
}

std::vector<std::shared_ptr<Callback>> TakeLong(Watch& w) {
  std::vector<std::shared_ptr<Callback>> found;
  for (CallBegun& call : w.calls) {
    if (Clock::now() - call.at < w.limit) break;
    if (!call.is_told) found.push_back(call.callback);
    call.is_told = true;
  }
  return found;
}

void Look() {
  BlockSignals();
  Watch& w = watch();
  std::unique_lock<std::mutex> lock(w.mutex);
  for (;;) {
    const uint64_t seen = w.begun;
    w.wake.wait_for(lock, w.limit / 10);
    const auto tell = w.tell;
    const auto found = TakeLong(w);
    lock.unlock();
    for (const auto& callback : found) tell(callback);
    lock.lock();
    if (!w.calls.empty() || w.begun != seen) continue;
    w.sleeps = true;
    w.wake.wait(lock, [&] { return w.begun != seen; });
    w.sleeps = false;
  }
}

// Without a thread nothing is told.
bool Start() {
  try {
    std::thread(Look).detach();
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

}  // namespace

void WatchLongCalls(std::chrono::duration<double> limit,
                    void (*tell)(const std::shared_ptr<Callback>&)) {
  Watch& w = watch();
  std::lock_guard<std::mutex> lock(w.mutex);
  w.limit = std::chrono::duration_cast<Clock::duration>(limit);
  w.tell = tell;
}

WatchedCall::WatchedCall(const std::shared_ptr<Callback>& callback) {
  Watch& w = watch();
  std::lock_guard<std::mutex> lock(w.mutex);
  begun_ = w.calls.insert(w.calls.end(), {Clock::now(), callback});
  ++w.begun;
  if (w.sleeps) w.wake.notify_one();
  if (!w.started) w.started = w.tell != nullptr && Start();
}

WatchedCall::~WatchedCall() {
  Watch& w = watch();
  std::list<CallBegun> ended;  // its callback may be the last reference: dropped without the lock
  std::lock_guard<std::mutex> lock(w.mutex);
  ended.splice(ended.end(), w.calls, begun_);
}

}  // namespace callbax
