// The few functions of NVIDIA's driver that the runtime needs, found when the first call for a GPU runs.
//
// Nothing of CUDA is needed to build callbax or to import it. The prototypes are those of cuda.h, under
// the names that the library exports (with _v2 where it has one), which have not changed since CUDA 11.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace callbax {

using CudaResult = int;
using CudaContext = struct CUctx_st*;
using CudaStream = struct CUstream_st*;
using CudaEvent = struct CUevent_st*;
using CudaPointer = unsigned long long;  // an address in the memory of a device

constexpr CudaResult kCudaSuccess = 0;
constexpr CudaResult kCudaIsGone = 4;  // CUDA_ERROR_DEINITIALIZED: the process ends
constexpr CudaResult kCudaNotReady = 600;
constexpr unsigned kHostMemoryIsPortable = 1;  // CU_MEMHOSTALLOC_PORTABLE: for all contexts
constexpr unsigned kEventSleeps = 1;           // CU_EVENT_BLOCKING_SYNC
constexpr unsigned kEventHasNoTime = 2;        // CU_EVENT_DISABLE_TIMING
constexpr int kNotCapturing = 0;               // CU_STREAM_CAPTURE_STATUS_NONE

// Each by its name and the types of its arguments.
#define CALLBAX_CUDA_FUNCTIONS(EACH)                                       \
  EACH(cuGetErrorName, CudaResult, const char**)                           \
  EACH(cuGetErrorString, CudaResult, const char**)                         \
  EACH(cuCtxGetCurrent, CudaContext*)                                      \
  EACH(cuCtxSetCurrent, CudaContext)                                       \
  EACH(cuStreamIsCapturing, CudaStream, int*)                              \
  EACH(cuStreamWaitEvent, CudaStream, CudaEvent, unsigned)                 \
  EACH(cuMemHostAlloc, void**, size_t, unsigned)                           \
  EACH(cuMemFreeHost, void*)                                               \
  EACH(cuMemcpyDtoHAsync_v2, void*, CudaPointer, size_t, CudaStream)       \
  EACH(cuMemcpyHtoDAsync_v2, CudaPointer, const void*, size_t, CudaStream) \
  EACH(cuMemcpyDtoDAsync_v2, CudaPointer, CudaPointer, size_t, CudaStream) \
  EACH(cuMemsetD8Async, CudaPointer, unsigned char, size_t, CudaStream)    \
  EACH(cuEventCreate, CudaEvent*, unsigned)                                \
  EACH(cuEventRecord, CudaEvent, CudaStream)                               \
  EACH(cuEventQuery, CudaEvent)                                            \
  EACH(cuEventSynchronize, CudaEvent)                                      \
  EACH(cuEventDestroy_v2, CudaEvent)

struct CudaDriver {
#define CALLBAX_CUDA_POINTER(name, ...) CudaResult (*name)(__VA_ARGS__) = nullptr;
  CALLBAX_CUDA_FUNCTIONS(CALLBAX_CUDA_POINTER)
#undef CALLBAX_CUDA_POINTER
};

// Null if the driver is missing, or lacks functions, with the reason in *why if that is not null. Loads
// the library when it is first found, from the path in CALLBAX_LIBCUDA if that is set and not empty. Any
// thread.
const CudaDriver* FindCudaDriver(std::string* why);

// A step that the driver has refused: "cuEventRecord: CUDA_ERROR_ILLEGAL_ADDRESS (an illegal ...)".
class CudaError : public std::runtime_error {
 public:
  CudaError(const CudaDriver& driver, const char* function, CudaResult result);
  CudaResult result() const { return result_; }

 private:
  CudaResult result_;
};

// Calls a function of the driver; throws CudaError if it fails.
#define CALLBAX_CUDA(driver, name, ...)                                      \
  do {                                                                       \
    const ::callbax::CudaResult result_of_call = (driver).name(__VA_ARGS__); \
    if (result_of_call != ::callbax::kCudaSuccess) {                         \
      throw ::callbax::CudaError((driver), #name, result_of_call);           \
    }                                                                        \
  } while (false)

}  // namespace callbax
