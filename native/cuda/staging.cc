#include "staging.h"

#include <atomic>
#include <stdexcept>

#include "dtypes.h"

namespace callbax {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kLarge = size_t{1} << 20;

alignas(kAlignment) char no_bytes[kAlignment];  // where arrays without elements are

// Of a type that NumPy does not have there are none: the call fails.
size_t StoredBytes(const Buffer& buffer) {
  const Dtype* dtype = FindDtype(buffer.dtype);
  const int64_t count = CountElements(buffer.rank, buffer.dims);
  return dtype ? static_cast<size_t>(dtype->stored_bytes(count)) : 0;
}

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

Staging::Staging(const CudaDriver& driver, CudaStream stream, std::vector<Buffer>* operands,
                 std::vector<Buffer>* results, Use use)
    : copies_(driver, stream) {
  RefuseCapture(driver, stream);
  Lay(operands, results, use);
  SendOperands();
}

Staging::~Staging() {
  if (!is_intact_) return;  // nobody knows when its copies end: their blocks are lost
  try {
    GiveBack();
  } catch (const CudaError&) {
    // Likewise. The call has an error already.
  }
}

size_t Staging::BytesOf(const std::vector<Buffer>& buffers) {
  size_t total = 0;
  for (const Buffer& buffer : buffers) total += Aligned(StoredBytes(buffer));
  return total;
}

void RefuseCapture(const CudaDriver& driver, CudaStream stream) {
  int capturing = kNotCapturing;
  CALLBAX_CUDA(driver, cuStreamIsCapturing, stream, &capturing);
  if (capturing == kNotCapturing) return;
  throw std::runtime_error(
      "its stream is being captured into a CUDA graph, and graphs do not call the host");
}

void Staging::Lay(std::vector<Buffer>* operands, std::vector<Buffer>* results, Use use) {
  size_t total = 0;
  size_t small = 0;
  for (const auto* buffers : {operands, results}) {
    for (const Buffer& buffer : *buffers) {
      const size_t bytes = StoredBytes(buffer);
      total += bytes;
      if (bytes < kLarge) small += Aligned(bytes);
    }
  }
  if (total > 0) {
    CALLBAX_CUDA(copies_.driver(), cuCtxGetCurrent, &context_);
    pool_ = &PinnedPool::Get(copies_.driver());
  }
  if (small > 0) {
    small_block_ = Take(small, false);
    small_ = (*small_block_)->memory;
  }
  in_.reserve(operands->size());  // buffers point to what is in these
  out_.reserve(results->size());
  for (Buffer& buffer : *operands) {
    const size_t bytes = StoredBytes(buffer);
    const bool is_kept = use.whole && use.keeps && bytes >= kLarge;
    const Array array = Place(&buffer, bytes, is_kept);
    if (bytes == 0) continue;
    in_.emplace_back(array);
    if (!is_kept) continue;
    in_.back().owner = blocks_.back();
    buffer.owner = &in_.back().owner;
  }
  for (Buffer& buffer : *results) {
    const size_t bytes = StoredBytes(buffer);
    const Array array = Place(&buffer, bytes, false);
    if (bytes == 0) continue;
    out_.emplace_back(array, *this);
    if (use.whole && bytes >= kLarge) buffer.destination = &out_.back();
  }
}

Staging::Array Staging::Place(Buffer* buffer, size_t bytes, bool is_kept) {
  Array array{no_bytes, reinterpret_cast<CudaPointer>(buffer->data), bytes, nullptr};
  if (bytes >= kLarge) {
    array.block = Take(bytes, is_kept);
    array.host = (*array.block)->memory;
  } else if (bytes > 0) {
    array.block = small_block_;
    array.host = small_;
    small_ += Aligned(bytes);
  }
  buffer->data = array.host;
  return array;
}

HeldBlock* Staging::Take(size_t bytes, bool is_kept) {
  const bool may_be_locked = !is_kept || pool_->MayKeep(bytes);
  StagingBlock* block = may_be_locked ? pool_->Take(context_, copies_.stream(), bytes)
                                      : pool_->TakeOrdinary(context_, bytes);
  blocks_.push_back(std::make_shared<HeldBlock>(*pool_, block));
  return blocks_.back().get();
}

void Staging::SendOperands() {
  for (const Operand& each : in_) {
    HeldBlock& block = *each.block;
    if (!block->locked && each.bytes >= kLarge &&
        copies_.ToHostInTurn(*pool_, context_, each.host, each.device, each.bytes)) {
      continue;
    }
    block.is_copied = true;
    copies_.ToHost(each.host, each.device, each.bytes);
    awaited_ = &block;
  }
  if (awaited_ != nullptr) copies_.Record((*awaited_)->event);
}

void Staging::AwaitOperands() {
  if (awaited_ != nullptr) copies_.Await((*awaited_)->event);
  for (const Operand& each : in_) each.block->is_copied = false;
  is_intact_ = true;
}

void Staging::SendResults() {
  if (failure_) std::rethrow_exception(failure_);
  is_intact_ = false;
  // The function may have made another one current.
  if (!out_.empty()) CALLBAX_CUDA(copies_.driver(), cuCtxSetCurrent, context_);
  for (Result& each : out_) {
    if (!each.is_sent) SendFrom(&each, each.host);
  }
  GiveBack();
}

void Staging::Result::Send(const void* source) noexcept {
  try {
    CALLBAX_CUDA(staging.copies_.driver(), cuCtxSetCurrent, staging.context_);
    staging.SendFrom(this, static_cast<const char*>(source));
    is_sent = true;
  } catch (const std::exception&) {
    staging.failure_ = std::current_exception();
    staging.is_intact_ = false;
  }
}

void Staging::SendFrom(Result* result, const char* source) {
  HeldBlock* from = source == result->host ? result->block : nullptr;
  for (const Operand& each : in_) {
    const bool has_it = source >= each.host && source + result->bytes <= each.host + each.bytes;
    if (has_it) from = each.block;
  }
  HeldBlock& own = *result->block;
  if (from != nullptr && (*from)->locked) {
    from->is_copied = true;
    copies_.ToDevice(result->device, source, result->bytes);
  } else if (own->locked) {
    own.is_copied = true;
    copies_.ToDeviceThrough(result->host, result->device, source, result->bytes, context_);
  } else if (result->bytes < kLarge ||
             !copies_.ToDeviceInTurn(*pool_, context_, result->device, source, result->bytes)) {
    if (source != result->host) CopySplit(result->host, source, result->bytes);
    own.is_copied = true;
    copies_.ToDevice(result->device, result->host, result->bytes);
  }
}

// Nobody else can come to have a block that only this call has.
void Staging::GiveBack() {
  for (Operand& each : in_) each.owner.reset();
  for (std::shared_ptr<HeldBlock>& block : blocks_) {
    const bool is_kept = block.use_count() > 1;
    std::atomic_thread_fence(std::memory_order_acquire);  // after the last use by who had it
    if (block->is_copied && !is_kept) {
      block->ReturnBehind(copies_.stream());
    } else if (block->is_copied) {
      copies_.Record((*block)->event);
      copies_.Await((*block)->event);
      block->is_copied = false;
    }
    if (is_kept) block->Keep();
  }
  blocks_.clear();
}

}  // namespace callbax
