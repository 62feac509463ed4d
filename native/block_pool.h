// Memory for large argument copies: recycled while it is in use, given back when it is not.
//
// A fresh mapping costs a page fault for each page at first touch, which for large arrays is several
// times the copy itself. So blocks that come back are kept for about a second and handed out again;
// a reaper thread, which sleeps unless blocks are waiting, then returns them to the system.
//
// Thread safety: both functions may be called from any thread, with or without the GIL.
#pragma once

#include <cstddef>

namespace callbax {

// At least `bytes` of memory, 64-byte aligned. Throws std::bad_alloc.
void* TakeBlock(size_t bytes);
void ReturnBlock(void* memory) noexcept;

struct BlockStatistics {
  size_t idle_bytes;  // waiting to be used again
  size_t live_bytes;  // handed out
};
BlockStatistics CountBlocks() noexcept;

}  // namespace callbax
