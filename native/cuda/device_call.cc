#include "device_call.h"

#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "device_array.h"
#include "dtypes.h"
#include "python.h"

namespace callbax {
namespace {

// Events that nobody uses, by context. One that is recorded again leaves those alone that wait for it.
class SpareEvents {
 public:
  static SpareEvents& Get() {
    static SpareEvents* instance = new SpareEvents;
    return *instance;
  }
  // Throws CudaError.
  CudaEvent Take(const CudaDriver& driver, CudaContext context) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      std::vector<CudaEvent>& spare = events_[context];
      if (!spare.empty()) {
        const CudaEvent event = spare.back();
        spare.pop_back();
        return event;
      }
    }
    CudaEvent event = nullptr;
    CALLBAX_CUDA(driver, cuEventCreate, &event, kEventHasNoTime);
    return event;
  }
  void Return(CudaContext context, CudaEvent event) {
    std::lock_guard<std::mutex> lock(mutex_);
    events_[context].push_back(event);
  }

 private:
  std::mutex mutex_;
  std::map<CudaContext, std::vector<CudaEvent>> events_;  // guarded by mutex_
};

size_t BytesOf(const Buffer& buffer) {
  const int64_t count = CountElements(buffer.rank, buffer.dims);
  return static_cast<size_t>(FindDtype(buffer.dtype)->stored_bytes(count));
}

CudaPointer Address(const void* data) { return reinterpret_cast<CudaPointer>(data); }

CudaStream StreamOf(uintptr_t number) { return reinterpret_cast<CudaStream>(number); }

class CudaDevice : public Device, public StreamOrder {
 public:
  CudaDevice(const CudaDriver& driver, CudaStream stream, int ordinal)
      : driver_(driver),
        stream_(stream),
        ordinal_(ordinal),
        current_{ordinal, reinterpret_cast<uintptr_t>(stream)},
        outer_(std::exchange(device_of_call, &current_)) {}
  ~CudaDevice() override { device_of_call = outer_; }

  void* NewArray(const Buffer& buffer, bool writable) override {
    nb::object array = Try([&] {
      std::vector<int64_t> shape(buffer.dims, buffer.dims + buffer.rank);
      nb::object made = nb::cast(DeviceArray(buffer.dtype, buffer.data, std::move(shape),
                                             {kDlpackCuda, ordinal_}, writable, nb::none()));
      nb::inst_ptr<DeviceArray>(made)->Lend(current_.stream, this);
      return made;
    });
    return array.release().ptr();
  }

  void Expire(void* array) override {
    nb::inst_ptr<DeviceArray>(nb::handle(static_cast<PyObject*>(array)))->Expire();
  }

  bool Write(const Buffer& result, void* value) override {
    const nb::handle given(static_cast<PyObject*>(value));
    return Try([&] {
             OrderBefore();
             copied_ = true;
             const size_t bytes = BytesOf(result);
             if (nb::isinstance<DeviceArray>(given)) {
               Copy(result, *nb::inst_ptr<DeviceArray>(given), bytes);
             } else if (bytes > 0) {
               CopyFromHost(result, given, bytes);
             }
             return nb::none();
           })
        .is_valid();
  }

  bool Join() override {
    return Try([&] {
             OrderBefore();
             joined_ = 0;
             const bool copied = std::exchange(copied_, false);
             for (uintptr_t other : std::exchange(admitted_, {})) {
               // The memory of a result that was copied may be used again there.
               if (copied) Order(stream_, StreamOf(other));
             }
             return nb::none();
           })
        .is_valid();
  }

  void Fill(const Buffer& result, uint8_t byte) noexcept override {
    const size_t bytes = BytesOf(result);
    // If it fails, the driver reports it at the program's next step.
    if (bytes > 0) driver_.cuMemsetD8Async(Address(result.data), byte, bytes, stream_);
  }

  void Admit(uintptr_t other) override {
    Order(stream_, StreamOf(other));
    for (uintptr_t known : admitted_) {
      if (known == other) return;
    }
    admitted_.push_back(other);
  }

 private:
  // What it returns; null, with an error set, if it throws.
  template <class Function>
  static nb::object Try(const Function& function) {
    try {
      return function();
    } catch (nb::python_error& error) {
      error.restore();
    } catch (nb::builtin_exception& error) {
      PyErr_SetString(PyExc_BufferError, error.what());
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nb::object();
  }

  void Copy(const Buffer& result, const DeviceArray& array, size_t bytes) {
    if (array.device().type != kDlpackCuda || array.device().id != ordinal_) {
      const std::string there = std::to_string(array.device().id);
      throw std::runtime_error("the function was called for GPU " + std::to_string(ordinal_) +
                               ", but returned an array on device " + there);
    }
    if (bytes == 0 || array.data() == result.data) return;
    CALLBAX_CUDA(driver_, cuMemcpyDtoDAsync_v2, Address(result.data), Address(array.data()), bytes,
                 stream_);
  }

  // From ordinary memory: the driver has read it when it returns.
  void CopyFromHost(const Buffer& result, nb::handle value, size_t bytes) {
    const nb::object array =
        nb::steal(PyArray_FROM_OF(value.ptr(), NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED));
    if (!array.is_valid()) throw nb::python_error();
    const void* data = PyArray_DATA(reinterpret_cast<PyArrayObject*>(array.ptr()));
    CALLBAX_CUDA(driver_, cuMemcpyHtoDAsync_v2, Address(result.data), data, bytes, stream_);
  }

  // What other streams have been given comes before what XLA's stream does from now on.
  void OrderBefore() {
    for (; joined_ < admitted_.size(); ++joined_) Order(StreamOf(admitted_[joined_]), stream_);
  }

  // What `later` does from now on comes after what `first` has done so far.
  void Order(CudaStream first, CudaStream later) {
    CudaContext context = nullptr;
    CALLBAX_CUDA(driver_, cuCtxGetCurrent, &context);
    const CudaEvent event = SpareEvents::Get().Take(driver_, context);
    CALLBAX_CUDA(driver_, cuEventRecord, event, first);
    CALLBAX_CUDA(driver_, cuStreamWaitEvent, later, event, 0);
    SpareEvents::Get().Return(context, event);
  }

  const CudaDriver& driver_;
  const CudaStream stream_;
  const int ordinal_;
  const DeviceOfCall current_;
  const DeviceOfCall* const outer_;
  std::vector<uintptr_t> admitted_;
  size_t joined_ = 0;    // how many of these XLA's stream waits for already
  bool copied_ = false;  // an array that the function has returned
};

}  // namespace

std::unique_ptr<Device> NewCudaDevice(const CudaDriver& driver, CudaStream stream, int ordinal) {
  return std::make_unique<CudaDevice>(driver, stream, ordinal);
}

}  // namespace callbax
