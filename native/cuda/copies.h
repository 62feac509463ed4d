// Copies between a GPU's memory and the host's, on one stream.
//
//   page-locked memory   is copied from and to directly;
//   other sources        pass through page-locked memory of the same size, piece by piece: one piece
//                        travels while the next are copied there, on several threads if there are many;
//   where there is no page-locked memory of that size, two small blocks are used in turn.
#pragma once

#include "cuda_driver.h"
#include "pinned.h"

namespace callbax {

// Any thread, without the GIL, with the context current. Throws CudaError or std::bad_alloc.
class StreamCopies {
 public:
  StreamCopies(const CudaDriver& driver, CudaStream stream) : driver_(driver), stream_(stream) {}

  // Begin a copy.
  void ToHost(void* host, CudaPointer device, size_t bytes) const;
  void ToDevice(CudaPointer device, const void* host, size_t bytes) const;
  // The same through `locked`, of that size; the source is not needed any more afterwards.
  void ToDeviceThrough(char* locked, CudaPointer device, const char* source, size_t bytes,
                       CudaContext context) const;

  // Copies from or to ordinary memory, which is not needed any more, or complete, afterwards. False, with
  // nothing done, if there are no blocks for it.
  bool ToHostInTurn(PinnedPool& pool, CudaContext context, char* host, CudaPointer device,
                    size_t bytes) const;
  bool ToDeviceInTurn(PinnedPool& pool, CudaContext context, CudaPointer device, const char* source,
                      size_t bytes) const;

  // Puts the event behind all that has begun; waits for it.
  void Record(CudaEvent event) const;
  void Await(CudaEvent event) const;

  const CudaDriver& driver() const { return driver_; }
  CudaStream stream() const { return stream_; }

 private:
  const CudaDriver& driver_;
  const CudaStream stream_;
};

// memcpy, on several threads if it is worth it.
void CopySplit(char* to, const char* from, size_t bytes);

}  // namespace callbax
