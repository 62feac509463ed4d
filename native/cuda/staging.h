// The arrays of one call on their way from a GPU to the host and back.
//
//   copies out -> event -> wait -> the call, over host memory -> copies in, which nobody waits for
//
// Where the call has no results, whoever makes it may be another thread than the one that has sent the
// copies out, and may come later.
//
// All are on XLA's stream, so they come after what the program has computed before, and before what it
// computes afterwards. One block serves all arrays of a call.
#pragma once

#include <vector>

#include "call.h"
#include "cuda_driver.h"
#include "pinned.h"

namespace callbax {

// Any thread, without the GIL, with the stream's context current. Throws CudaError, std::runtime_error
// or std::bad_alloc.
class Staging {
 public:
  // Points the buffers, which are in the GPU's memory, to the host's, and sends the operands there.
  Staging(const CudaDriver& driver, CudaStream stream, std::vector<Buffer>* operands,
          std::vector<Buffer>* results);

  // How much of the pool's memory these buffers take.
  static size_t BytesOf(const std::vector<Buffer>& buffers);

  // Waits until the operands are there.
  void AwaitOperands();

  // Sends the results to where they were to be. The buffers' memory may not be used afterwards.
  void SendResults();

 private:
  // Gives the block back. If a copy has begun that is not known to have ended, the block is lost.
  struct HeldBlock {
    HeldBlock() = default;
    ~HeldBlock();
    HeldBlock(const HeldBlock&) = delete;
    HeldBlock& operator=(const HeldBlock&) = delete;

    PinnedPool* pool = nullptr;
    StagingBlock* block = nullptr;
    bool is_copied = false;
  };
  struct Transfer {
    void* host;
    CudaPointer device;
    size_t bytes;
  };

  void CheckCapture();
  void Lay(std::vector<Buffer>* operands, std::vector<Buffer>* results);
  void SendOperands();

  const CudaDriver& driver_;
  const CudaStream stream_;
  HeldBlock held_;
  std::vector<Transfer> in_, out_;  // without those of no bytes
};

}  // namespace callbax
