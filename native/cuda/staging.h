// The arrays of one call on their way from a GPU to the host and back.
//
//   copies out -> event -> wait -> the call, over host memory -> copies in, which nobody waits for
//
// Where the call has no results, whoever makes it may be another thread than the one that has sent the
// copies out, and may come later.
//
// All are on XLA's stream, so they come after what the program has computed before, and before what it
// computes afterwards. One block serves the small arrays of a call; each large one has its own.
//
// Large arrays are not copied on the host where that can be avoided. An operand's block may become the
// memory of the array that the function gets, which may keep it. A result travels while it is copied to
// its block, and one that is in an operand's block travels from there. If an array keeps that, the call
// ends only when it has arrived, since the array may be written to then.
#pragma once

#include <exception>
#include <memory>
#include <vector>

#include "call.h"
#include "copies.h"
#include "cuda_driver.h"
#include "pinned.h"

namespace callbax {

// Throws if the stream is being captured into a CUDA graph, which would not call the host again.
void RefuseCapture(const CudaDriver& driver, CudaStream stream);

// Any thread, without the GIL, with the stream's context current at first. Throws CudaError,
// std::runtime_error or std::bad_alloc.
class Staging {
 public:
  // What the call does with its arrays.
  struct Use {
    bool whole;  // takes and gives each as one, and not lane by lane
    bool keeps;  // may keep the operands for ever
  };

  // Points the buffers, which are in the GPU's memory, to the host's, and sends the operands there.
  Staging(const CudaDriver& driver, CudaStream stream, std::vector<Buffer>* operands,
          std::vector<Buffer>* results, Use use);
  // Gives back what SendResults has not: the call has failed.
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // How much of the pool's memory these buffers take.
  static size_t BytesOf(const std::vector<Buffer>& buffers);

  // Waits until the operands are there.
  void AwaitOperands();

  // Sends the results to where they were to be. The buffers' memory may not be used afterwards.
  void SendResults();

 private:
  struct Array {
    char* host;
    CudaPointer device;
    size_t bytes;
    HeldBlock* block;
  };
  struct Operand : Array {
    explicit Operand(const Array& array) : Array(array) {}
    Reference owner;  // of the block, if arrays may have it
  };
  struct Result final : Array, Destination {
    Result(const Array& array, Staging& of) : Array(array), staging(of) {}
    void Send(const void* source) noexcept override;
    void Withdraw() noexcept override { is_sent = false; }

    Staging& staging;
    bool is_sent = false;
  };

  void Lay(std::vector<Buffer>* operands, std::vector<Buffer>* results, Use use);
  Array Place(Buffer* buffer, size_t bytes, bool is_kept);
  HeldBlock* Take(size_t bytes, bool is_kept);
  void SendOperands();
  void SendFrom(Result* result, const char* source);
  void GiveBack();

  const StreamCopies copies_;
  PinnedPool* pool_ = nullptr;     // null if no array has data
  CudaContext context_ = nullptr;  // likewise
  std::vector<std::shared_ptr<HeldBlock>> blocks_;
  char* small_ = nullptr;  // where the next small array is
  HeldBlock* small_block_ = nullptr;
  HeldBlock* awaited_ = nullptr;  // whose event is behind the operands; null if none travel
  std::vector<Operand> in_;       // these have no arrays without data
  std::vector<Result> out_;
  std::exception_ptr failure_;  // of a result that was sent
  bool is_intact_ = false;      // the operands have come, and no copy has failed since
};

}  // namespace callbax
