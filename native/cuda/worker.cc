#include "worker.h"

#include <atomic>
#include <system_error>
#include <thread>
#include <utility>

#include "system.h"

namespace callbax {
namespace {

std::atomic<Worker*> worker{new Worker};

thread_local bool is_worker = false;

}  // namespace

Worker& Worker::Get() { return *worker; }

void Worker::Forget() { worker = new Worker; }

bool Worker::IsThis() noexcept { return is_worker; }

bool Worker::Start() {
  if (started_) return true;
  try {
    std::thread([this] { Serve(); }).detach();
    started_ = true;
  } catch (const std::system_error&) {
    return false;
  }
  return true;
}

void Worker::AwaitRoom(size_t bytes, size_t limit) {
  std::unique_lock<std::mutex> lock(mutex_);
  ended_one_.wait(lock, [&] {
    const size_t calls = added_ - ended_;
    return is_worker || calls == 0 || (calls < kMostCalls && bytes_ + bytes <= limit);
  });
}

void Worker::Add(size_t bytes, std::function<void()> call) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (Start()) {
      ++added_;
      bytes_ += bytes;
      calls_.push_back({bytes, std::move(call)});
      added_one_.notify_one();
      return;
    }
  }
  call();
}

bool Worker::Await(std::chrono::duration<double> limit) {
  if (is_worker) return true;
  std::unique_lock<std::mutex> lock(mutex_);
  return ended_one_.wait_for(lock, limit, [this, last = added_] { return ended_ >= last; });
}

size_t Worker::Count() {
  std::lock_guard<std::mutex> lock(mutex_);
  return added_ - ended_;
}

void Worker::Serve() {
  is_worker = true;
  BlockSignals();
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    added_one_.wait(lock, [this] { return !calls_.empty(); });
    Call call = std::move(calls_.front());
    calls_.pop_front();
    lock.unlock();
    call.run();
    call.run = nullptr;  // what it holds goes before anybody is told that it has ended
    lock.lock();
    bytes_ -= call.bytes;
    ++ended_;
    ended_one_.notify_all();
  }
}

}  // namespace callbax
