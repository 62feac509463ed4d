// Arrays as other libraries take them without a copy: by DLPack, or by CUDA's array interface.
//
// A DeviceArray is over memory of the host (a NumPy array's, which it keeps) or of a GPU (XLA's). What a
// library makes of it holds a DLPack capsule, or the object itself; a capsule holds the object. So its
// reference count tells whether anything may still use the memory, as NumPy's do (arrays.h).
//
// All need the GIL; a capsule may be deleted without.
#pragma once

#include <cstdint>
#include <vector>

#include "dlpack.h"
#include "python.h"

namespace callbax {

// Has streams of other libraries wait.
class StreamOrder {
 public:
  virtual ~StreamOrder() = default;
  // What the other stream does from now on comes after what XLA's has done so far, and what XLA's does
  // after the call comes after all of it. Throws std::exception.
  virtual void Admit(uintptr_t stream) = 0;
};

// The GPU and XLA's stream of the call on this thread whose function gets arrays there; null: there is none.
struct DeviceOfCall {
  int ordinal;
  uintptr_t stream;
};
inline thread_local const DeviceOfCall* device_of_call = nullptr;

class DeviceArray {
 public:
  // Over a NumPy array's memory, or a copy of it if it is not contiguous. Throws nb::python_error.
  explicit DeviceArray(nb::handle array);
  // Over a GPU's memory; `owner` keeps it, if it is not XLA's.
  DeviceArray(int code, void* data, std::vector<int64_t> shape, DlpackDevice device, bool writable,
              nb::object owner);

  int code() const { return code_; }
  void* data() const { return data_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  DlpackDevice device() const { return device_; }
  bool writable() const { return writable_; }

  // Of XLA's memory: the stream that it belongs to, while the call lasts.
  void Lend(uintptr_t stream, StreamOrder* order) {
    stream_ = stream;
    order_ = order;
  }
  // The call has ended: nobody gets the memory any more.
  void Expire() {
    order_ = nullptr;
    expired_ = true;
  }

  nb::object Dtype() const;
  nb::object Shape() const;
  nb::object Stream() const;
  nb::object CudaInterface() const;
  // A capsule, which holds `self`. Throws nb::builtin_exception or nb::python_error.
  static nb::object Export(nb::handle_t<DeviceArray> self, nb::object stream,
                           nb::object max_version, nb::object device, nb::object copy);

 private:
  void CheckAlive() const;
  void Admit(nb::handle stream) const;

  int code_;
  void* data_;
  std::vector<int64_t> shape_;
  DlpackDevice device_;
  bool writable_;
  nb::object owner_;
  uintptr_t stream_ = 0;
  StreamOrder* order_ = nullptr;
  bool expired_ = false;
};

// What exports itself by DLPack, without a copy: a NumPy array over memory of the host, or a DeviceArray
// over a GPU's, ready on that stream. Throws nb::builtin_exception or nb::python_error.
nb::object FromDlpack(nb::handle object, nb::object stream);

}  // namespace callbax
