#include "pinned.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "block_pool.h"

namespace callbax {
namespace {

constexpr size_t kSmallest = 4096;
constexpr size_t kMostByDefault = size_t{1} << 30;

size_t Limit() {
  const char* text = std::getenv("CALLBAX_PINNED_LIMIT");
  if (text != nullptr) {
    char* end = nullptr;
    const unsigned long long limit = std::strtoull(text, &end, 10);
    if (end != text && *end == '\0' && *text != '-') return limit;
    throw std::runtime_error("CALLBAX_PINNED_LIMIT must be a number of bytes, but it is '" +
                             std::string(text) + "'");
  }
  const auto pages = static_cast<size_t>(std::max(0L, sysconf(_SC_PHYS_PAGES)));
  const auto page = static_cast<size_t>(std::max(0L, sysconf(_SC_PAGESIZE)));
  return std::min(kMostByDefault, pages * page / 8);
}

// Few sizes, so that a block serves calls of about its size: four between a power of two and the next.
size_t RoundUp(size_t bytes) {
  size_t unit = kSmallest;
  while (unit < bytes / 8) unit *= 2;
  return std::max(unit, (bytes + unit - 1) / unit * unit);
}

}  // namespace

PinnedPool& PinnedPool::Get(const CudaDriver& driver) {
  static PinnedPool* pool = new PinnedPool(driver, Limit());
  // A forked child may free arrays that keep blocks.
  static const int registered = pthread_atfork(
      [] { pool->mutex_.lock(); }, [] { pool->mutex_.unlock(); }, [] { pool->mutex_.unlock(); });
  static_cast<void>(registered);
  return *pool;
}

StagingBlock* PinnedPool::Take(CudaContext context, CudaStream stream, size_t bytes) {
  StagingBlock* block = TakeLocked(context, stream, bytes);
  return block != nullptr ? block : TakeOrdinary(context, bytes);
}

StagingBlock* PinnedPool::TakeOrdinary(CudaContext context, size_t bytes) {
  auto block = std::make_unique<StagingBlock>();
  block->size = RoundUp(bytes);
  block->context = context;
  block->locked = false;
  block->memory = static_cast<char*>(TakeBlock(block->size));
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++bytes_.ordinary;
  }
  return WithEvent(std::move(block));
}

StagingBlock* PinnedPool::TakeLocked(CudaContext context, CudaStream stream, size_t bytes) {
  const size_t size = RoundUp(bytes);
  for (;;) {
    Blocks unwanted;
    std::unique_lock<std::mutex> lock(mutex_);
    CollectPassed(&unwanted);
    StagingBlock* block = TakeIdle(context, size);
    Room room = block ? Room::kThere : LookForRoom(size, &unwanted);
    if (!block && room == Room::kThere) bytes_.held += size;
    if (room == Room::kWait && !WaitForOldest(stream, &lock)) room = Room::kNone;
    if (lock.owns_lock()) lock.unlock();
    Free(unwanted);
    if (block || room == Room::kNone) return block;
    if (room == Room::kThere) return NewLocked(context, size);
  }
}

StagingBlock* PinnedPool::TakeIdle(CudaContext context, size_t size) {
  const auto found = idle_.find({context, size});
  if (found == idle_.end()) return nullptr;
  StagingBlock* block = found->second;
  idle_.erase(found);
  bytes_.idle -= size;
  bytes_.held += size;
  return block;
}

// Its size is counted as held already. Null if the driver has no such memory.
StagingBlock* PinnedPool::NewLocked(CudaContext context, size_t size) {
  auto block = std::make_unique<StagingBlock>();
  block->size = size;
  block->context = context;
  void* memory = nullptr;
  if (driver_.cuMemHostAlloc(&memory, size, kHostMemoryIsPortable) != kCudaSuccess) {
    std::lock_guard<std::mutex> lock(mutex_);
    bytes_.held -= size;
    return nullptr;
  }
  block->memory = static_cast<char*>(memory);
  return WithEvent(std::move(block));
}

// Of a block that nobody uses yet; if there is none, the block's memory goes.
StagingBlock* PinnedPool::WithEvent(std::unique_ptr<StagingBlock> block) {
  const CudaResult result = driver_.cuEventCreate(&block->event, kEventSleeps | kEventHasNoTime);
  if (result == kCudaSuccess) return block.release();
  block->event = nullptr;
  if (block->locked) {
    std::lock_guard<std::mutex> lock(mutex_);
    bytes_.held -= block->size;
    leaving_ += block->size;
  }
  Free({block.release()});
  throw CudaError(driver_, "cuEventCreate", result);
}

bool PinnedPool::MayKeep(size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  return bytes_.kept + RoundUp(bytes) <= limit_ / 2;
}

void PinnedPool::Keep(StagingBlock* block) noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  if (block->locked && !block->kept) bytes_.kept += block->size;
  block->kept = true;
}

void PinnedPool::Return(StagingBlock* block) noexcept {
  if (!block->locked) ReturnBlock(std::exchange(block->memory, nullptr));
  std::lock_guard<std::mutex> lock(mutex_);
  if (block->locked) bytes_.held -= block->size;
  if (block->locked && block->kept) bytes_.kept -= block->size;
  block->kept = false;
  Settle(block, kCudaSuccess);
}

void PinnedPool::ReturnBehind(StagingBlock* block, CudaStream stream) {
  CALLBAX_CUDA(driver_, cuEventRecord, block->event, stream);
  std::lock_guard<std::mutex> lock(mutex_);
  in_flight_[stream].push_back(block);
  if (!block->locked) return;
  bytes_.held -= block->size;
  bytes_.in_flight += block->size;
}

void PinnedPool::Lose(StagingBlock* block) noexcept {
  if (!block->locked) return;
  std::lock_guard<std::mutex> lock(mutex_);
  bytes_.held -= block->size;
  bytes_.lost += block->size;
}

PinnedStatistics PinnedPool::Count() {
  std::lock_guard<std::mutex> lock(mutex_);
  return bytes_;
}

// A stream reaches its events in order.
void PinnedPool::CollectPassed(Blocks* unwanted) {
  for (auto stream = in_flight_.begin(); stream != in_flight_.end();) {
    std::deque<StagingBlock*>& blocks = stream->second;
    while (!blocks.empty()) {
      StagingBlock* block = blocks.front();
      const CudaResult result = driver_.cuEventQuery(block->event);
      if (result == kCudaNotReady) break;
      blocks.pop_front();
      if (block->locked) bytes_.in_flight -= block->size;
      Settle(block, result);
    }
    stream = blocks.empty() ? in_flight_.erase(stream) : std::next(stream);
  }
  unwanted->swap(retired_);
}

PinnedPool::Room PinnedPool::LookForRoom(size_t size, Blocks* unwanted) {
  const size_t bound = bytes_.held + bytes_.lost;
  if (bound + size > limit_) return Room::kNone;
  const size_t in_time = bytes_.in_flight + leaving_;
  if (bound + in_time + size > limit_) return Room::kWait;
  if (bound + in_time + bytes_.idle + size <= limit_) return Room::kThere;
  while (bound + in_time + bytes_.idle + size > limit_) {
    StagingBlock* block = idle_.begin()->second;
    idle_.erase(idle_.begin());
    bytes_.idle -= block->size;
    leaving_ += block->size;
    unwanted->push_back(block);
  }
  return Room::kFreed;
}

// Nobody else can free the block meanwhile: it is not in the table, but still counted as in flight.
bool PinnedPool::WaitForOldest(CudaStream stream, std::unique_lock<std::mutex>* lock) {
  const auto found = in_flight_.find(stream);
  if (found == in_flight_.end()) return false;
  StagingBlock* block = found->second.front();
  found->second.pop_front();
  if (found->second.empty()) in_flight_.erase(found);
  ++bytes_.waits;
  lock->unlock();
  const CudaResult result = driver_.cuEventSynchronize(block->event);
  lock->lock();
  if (block->locked) bytes_.in_flight -= block->size;
  Settle(block, result);
  return true;
}

// Of a block that is not counted any more, and not in a table: what becomes of it, by the result of asking
// for its event.
void PinnedPool::Settle(StagingBlock* block, CudaResult result) {
  if (result != kCudaSuccess) {
    if (block->locked) bytes_.lost += block->size;
  } else if (block->locked) {
    bytes_.idle += block->size;
    idle_.emplace(std::make_pair(block->context, block->size), block);
  } else {
    retired_.push_back(block);
  }
}

// What the driver does not free is not counted any more: it may have freed it.
void PinnedPool::Free(const Blocks& blocks) noexcept {
  for (StagingBlock* block : blocks) {
    if (block->event != nullptr) driver_.cuEventDestroy_v2(block->event);
    if (!block->locked) {
      if (block->memory != nullptr) ReturnBlock(block->memory);
    } else {
      driver_.cuMemFreeHost(block->memory);
      std::lock_guard<std::mutex> lock(mutex_);
      leaving_ -= block->size;
    }
    delete block;
  }
}

}  // namespace callbax
