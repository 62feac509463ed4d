#include "staging.h"

#include <chrono>
#include <stdexcept>

#include "dtypes.h"

namespace callbax {
namespace {

constexpr size_t kAlignment = 256;
constexpr std::chrono::microseconds kShortWait{30};

alignas(kAlignment) char no_bytes[kAlignment];  // where arrays without elements are

// Of a type that NumPy does not have there are none: the call fails.
size_t StoredBytes(const Buffer& buffer) {
  const Dtype* dtype = FindDtype(buffer.dtype);
  const int64_t count = CountElements(buffer.rank, buffer.dims);
  return dtype ? static_cast<size_t>(dtype->stored_bytes(count)) : 0;
}

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

Staging::HeldBlock::~HeldBlock() {
  if (block == nullptr) return;
  if (is_copied) {
    pool->Lose(block);
  } else {
    pool->Return(block);
  }
}

Staging::Staging(const CudaDriver& driver, CudaStream stream, std::vector<Buffer>* operands,
                 std::vector<Buffer>* results)
    : driver_(driver), stream_(stream) {
  CheckCapture();
  Lay(operands, results);
  SendOperands();
}

size_t Staging::BytesOf(const std::vector<Buffer>& buffers) {
  size_t total = 0;
  for (const Buffer& buffer : buffers) total += Aligned(StoredBytes(buffer));
  return total;
}

void Staging::CheckCapture() {
  int capturing = kNotCapturing;
  CALLBAX_CUDA(driver_, cuStreamIsCapturing, stream_, &capturing);
  if (capturing == kNotCapturing) return;
  throw std::runtime_error(
      "its stream is being captured into a CUDA graph, and graphs do not call the host");
}

void Staging::Lay(std::vector<Buffer>* operands, std::vector<Buffer>* results) {
  const size_t total = BytesOf(*operands) + BytesOf(*results);
  char* next = no_bytes;
  if (total > 0) {
    CudaContext context = nullptr;
    CALLBAX_CUDA(driver_, cuCtxGetCurrent, &context);
    held_.pool = &PinnedPool::Get(driver_);
    held_.block = held_.pool->Take(context, total);
    next = held_.block->memory;
  }
  for (auto* buffers : {operands, results}) {
    std::vector<Transfer>& transfers = buffers == operands ? in_ : out_;
    for (Buffer& buffer : *buffers) {
      const size_t bytes = StoredBytes(buffer);
      const auto device = reinterpret_cast<CudaPointer>(buffer.data);
      buffer.data = bytes > 0 ? next : no_bytes;
      if (bytes > 0) transfers.push_back({buffer.data, device, bytes});
      next += Aligned(bytes);
    }
  }
}

void Staging::SendOperands() {
  if (in_.empty()) return;
  held_.is_copied = true;
  for (const Transfer& each : in_) {
    CALLBAX_CUDA(driver_, cuMemcpyDtoHAsync_v2, each.host, each.device, each.bytes, stream_);
  }
  CALLBAX_CUDA(driver_, cuEventRecord, held_.block->event, stream_);
}

// A short wait costs less by asking than by sleeping.
void Staging::AwaitOperands() {
  using Clock = std::chrono::steady_clock;
  if (in_.empty()) return;
  const CudaEvent event = held_.block->event;
  const Clock::time_point end = Clock::now() + kShortWait;
  CudaResult result = kCudaNotReady;
  while (result == kCudaNotReady && Clock::now() < end) result = driver_.cuEventQuery(event);
  if (result == kCudaNotReady) {
    CALLBAX_CUDA(driver_, cuEventSynchronize, event);
  } else if (result != kCudaSuccess) {
    throw CudaError(driver_, "cuEventQuery", result);
  }
  held_.is_copied = false;
}

void Staging::SendResults() {
  if (out_.empty()) return;
  held_.is_copied = true;
  for (const Transfer& each : out_) {
    CALLBAX_CUDA(driver_, cuMemcpyHtoDAsync_v2, each.device, each.host, each.bytes, stream_);
  }
  held_.pool->ReturnBehind(held_.block, stream_);
  held_.block = nullptr;
}

}  // namespace callbax
