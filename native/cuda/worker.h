// Calls that are detached from their programs, which go on without them.
//
// One thread for the process runs them, in the order in which they were added: so effects that are
// ordered stay so, of several devices, too. A barrier, and an ordered call that is not detached, wait for
// those that were added before (Await).
//
// Bounds: kMostCalls, and the bytes that `AwaitRoom` is given. Who would exceed them waits, but for as
// much as one call of each thread. The worker never waits for itself.
//
// Thread safety: any thread that does not hold the GIL. Nothing runs with the mutex held.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

namespace callbax {

class Worker {
 public:
  static constexpr size_t kMostCalls = 1024;
  static constexpr std::chrono::duration<double> kForEver{1e9};

  // That of the process, never destroyed.
  static Worker& Get();
  // In a forked child: the calls are the parent's. No other thread may be there.
  static void Forget();
  // Whether this thread is the worker.
  static bool IsThis() noexcept;

  // Waits until a call of that many bytes may be added, so that at most `limit` are there.
  void AwaitRoom(size_t bytes, size_t limit);
  // Has the call run, which must not throw. If no thread can be started, it runs here.
  void Add(size_t bytes, std::function<void()> call);
  // Waits for the calls that have been added so far. False on time-out.
  bool Await(std::chrono::duration<double> limit);
  // How many there are.
  size_t Count();

 private:
  struct Call {
    size_t bytes;
    std::function<void()> run;
  };
  void Serve();
  bool Start();

  std::mutex mutex_;  // guards all of these
  std::condition_variable added_one_, ended_one_;
  std::deque<Call> calls_;  // that have not begun
  size_t bytes_ = 0;        // of those that have not ended
  uint64_t added_ = 0, ended_ = 0;
  bool started_ = false;
};

}  // namespace callbax
