// Copies between a GPU's memory and the host's, on one stream.
//
//   page-locked memory   is copied to and from as it is;
//   what is sent from elsewhere   passes through page-locked memory of its own size piece by piece: one
//                        travels while the next are copied there, on several threads if they are many;
//   ordinary memory      of arrays for which none is to be had goes through two small blocks in turn.
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
  bool ToDeviceInTurn(PinnedPool& pool, CudaContext context, CudaPointer device,
                      const char* source, size_t bytes) const;

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
