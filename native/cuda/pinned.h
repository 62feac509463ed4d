// Host memory through which arrays travel between the host and GPUs.
//
// It is page-locked, so that copies are asynchronous and at full speed. Locking is slow (about 0.1 ms for
// a page, 0.3 ms for a MiB), so blocks are kept until the process ends, up to a limit for the process:
// CALLBAX_PINNED_LIMIT in bytes, by default 1 GiB or an eighth of the memory.
//
// A block is
//   held       by a call, or by arrays that the call's function has kept: these may have half of the limit;
//   in flight  given back while a stream may still copy from it, with an event behind the last copy. It is
//              looked up when a block is wanted whether the event has passed, so giving back never waits;
//   idle       free to be held by a call of the same context: events belong to one;
//   lost       after an error of the driver, since a copy may still use it. It is never freed.
//
// At the limit, idle blocks of other sizes make room, and then the oldest in flight on the call's own stream
// are waited for. Nothing else is, and the block is of ordinary memory then: slow, but right. Calls that
// hold memory may wait for this one, and another device's stream may be behind a collective that this
// device comes to only after the call. On its own stream the call's device has already joined all that is
// before the call. All devices come to collectives in the same order, so the one that is furthest behind
// can always go on.
//
// Thread safety: any thread, with the context current, and without the GIL where it may wait. Nothing
// waits, locks pages or frees them with the mutex held.
#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda_driver.h"

namespace callbax {

struct StagingBlock {
  char* memory = nullptr;
  size_t size = 0;
  bool locked = true;  // in the limit; else ordinary memory
  CudaContext context = nullptr;
  CudaEvent event = nullptr;
  bool kept = false;  // by an array, after its call; guarded by the pool's mutex
};

// In bytes; what is of ordinary memory is not counted but as `ordinary`.
struct PinnedStatistics {
  size_t idle = 0, held = 0, in_flight = 0, lost = 0;
  size_t waits = 0;     // for blocks in flight
  size_t ordinary = 0;  // blocks of ordinary memory handed out so far
  size_t kept = 0;      // of what is held, by arrays
};

class PinnedPool {
 public:
  // That of the process, never destroyed. Throws if CALLBAX_PINNED_LIMIT is not a number.
  static PinnedPool& Get(const CudaDriver& driver);

  // A block of at least that size, for a call on that stream. Throws CudaError or std::bad_alloc.
  StagingBlock* Take(CudaContext context, CudaStream stream, size_t bytes);
  // The same of page-locked memory, or null if there is none; of ordinary memory.
  StagingBlock* TakeLocked(CudaContext context, CudaStream stream, size_t bytes);
  StagingBlock* TakeOrdinary(CudaContext context, size_t bytes);

  // Whether an array may keep a page-locked block of that size after its call.
  bool MayKeep(size_t bytes);
  // Of a block that an array keeps, until it is returned.
  void Keep(StagingBlock* block) noexcept;

  // Of a block that no copy uses. Needs no context.
  void Return(StagingBlock* block) noexcept;
  // Of a block that copies on the stream may use. Throws CudaError; the block is still held then.
  void ReturnBehind(StagingBlock* block, CudaStream stream);
  // Of a block that a copy may use, nobody knows how long.
  void Lose(StagingBlock* block) noexcept;

  size_t limit() const { return limit_; }
  // As of the last calls; needs no context.
  PinnedStatistics Count();

 private:
  using Blocks = std::vector<StagingBlock*>;
  enum class Room { kThere, kFreed, kWait, kNone };

  PinnedPool(const CudaDriver& driver, size_t limit) : driver_(driver), limit_(limit) {}

  StagingBlock* NewLocked(CudaContext context, size_t size);
  StagingBlock* WithEvent(std::unique_ptr<StagingBlock> block);
  // These need the mutex. What is added to `unwanted` is to be freed when it is not held any more.
  StagingBlock* TakeIdle(CudaContext context, size_t size);
  void CollectPassed(Blocks* unwanted);
  Room LookForRoom(size_t size, Blocks* unwanted);
  void Settle(StagingBlock* block, CudaResult result);

  void Free(const Blocks& blocks) noexcept;
  // False, at once, if none is in flight there.
  bool WaitForOldest(CudaStream stream, std::unique_lock<std::mutex>* lock);

  const CudaDriver& driver_;
  const size_t limit_;
  std::mutex mutex_;
  std::multimap<std::pair<CudaContext, size_t>, StagingBlock*> idle_;  // guarded by mutex_
  std::map<CudaStream, std::deque<StagingBlock*>> in_flight_;  // oldest first; guarded by mutex_
  Blocks retired_;  // of ordinary memory, which wait for a thread with a context; guarded by mutex_
  PinnedStatistics bytes_;  // guarded by mutex_
  size_t leaving_ = 0;      // bytes that are being freed; guarded by mutex_
};

// A block as long as a call, or an array of its memory, holds it. It is lost if a copy has begun then that
// is not known to have ended.
class HeldBlock {
 public:
  HeldBlock(PinnedPool& pool, StagingBlock* block) : pool_(pool), block_(block) {}
  ~HeldBlock() {
    if (block_ != nullptr) is_copied ? pool_.Lose(block_) : pool_.Return(block_);
  }
  HeldBlock(const HeldBlock&) = delete;
  HeldBlock& operator=(const HeldBlock&) = delete;

  StagingBlock* operator->() const { return block_; }
  void Keep() { pool_.Keep(block_); }
  // Throws CudaError; the block is still held then.
  void ReturnBehind(CudaStream stream) {
    pool_.ReturnBehind(block_, stream);
    block_ = nullptr;
    is_copied = false;
  }

  bool is_copied = false;

 private:
  PinnedPool& pool_;
  StagingBlock* block_;
};

}  // namespace callbax
