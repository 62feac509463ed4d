#include "device_array.h"

#include <nanobind/stl/pair.h>

#include <cstring>
#include <memory>
#include <string>

#include "dtypes.h"

namespace callbax {
namespace {

// What a capsule owns.
template <class Managed>
struct Exported {
  Managed managed{};
  std::vector<int64_t> shape, strides;
  PyObject* owner = nullptr;

  static void Delete(Managed* managed) {
    auto* exported = static_cast<Exported*>(managed->context);
    Release(exported->owner);
    delete exported;
  }
};

template <class Managed>
nb::object NewCapsule(std::unique_ptr<Exported<Managed>> exported, const char* name) {
  Managed* managed = &exported->managed;
  managed->context = exported.get();
  managed->deleter = Exported<Managed>::Delete;
  managed->tensor.shape = exported->shape.data();
  managed->tensor.strides = exported->strides.data();
  // Whoever takes the tensor out renames the capsule, and deletes it himself.
  nb::object capsule = nb::steal(PyCapsule_New(managed, name, [](PyObject* unused) {
    const char* current = PyCapsule_GetName(unused);
    if (std::strncmp(current, "used_", 5) == 0) return;
    auto* held = static_cast<Managed*>(PyCapsule_GetPointer(unused, current));
    held->deleter(held);
  }));
  if (!capsule) nb::raise_python_error();
  Py_INCREF(exported->owner);
  exported.release();
  return capsule;
}

template <class Managed>
std::unique_ptr<Exported<Managed>> NewExport(const DeviceArray& array, nb::handle self) {
  auto exported = std::make_unique<Exported<Managed>>();
  exported->shape = array.shape();
  exported->strides.resize(exported->shape.size());
  int64_t stride = 1;
  for (size_t i = exported->shape.size(); i-- > 0;) {
    exported->strides[i] = stride;
    stride *= exported->shape[i];
  }
  exported->owner = self.ptr();
  exported->managed.tensor = {array.data(),
                              array.device(),
                              static_cast<int32_t>(array.shape().size()),
                              DlpackTypeOf(array.code()),
                              nullptr,
                              nullptr,
                              0};
  return exported;
}

nb::object ContiguousArray(nb::handle array) {
  if (!PyArray_Check(array.ptr())) throw nb::type_error("not a NumPy array");
  nb::object found = nb::steal(reinterpret_cast<PyObject*>(
      PyArray_GETCONTIGUOUS(reinterpret_cast<PyArrayObject*>(array.ptr()))));
  if (!found) nb::raise_python_error();
  return found;
}

}  // namespace

DeviceArray::DeviceArray(nb::handle array)
    : device_{kDlpackCpu, 0}, owner_(ContiguousArray(array)) {
  auto* numpy = reinterpret_cast<PyArrayObject*>(owner_.ptr());
  code_ = CodeOfType(PyArray_TYPE(numpy));
  if (code_ < 0) throw nb::type_error("an array of a dtype that JAX does not have");
  data_ = PyArray_DATA(numpy);
  shape_.assign(PyArray_DIMS(numpy), PyArray_DIMS(numpy) + PyArray_NDIM(numpy));
  writable_ = PyArray_ISWRITEABLE(numpy);
}

DeviceArray::DeviceArray(int code, void* data, std::vector<int64_t> shape, DlpackDevice device,
                         bool writable, nb::object owner)
    : code_(code),
      data_(data),
      shape_(std::move(shape)),
      device_(device),
      writable_(writable),
      owner_(std::move(owner)) {}

void DeviceArray::CheckAlive() const {
  if (expired_) {
    throw nb::buffer_error(
        "this array belongs to a call that has ended: its memory is XLA's again");
  }
}

nb::object DeviceArray::Dtype() const {
  return nb::borrow(static_cast<PyObject*>(FindDtype(code_)->descr));
}

nb::object DeviceArray::Shape() const {
  return TupleOf(shape_.data(), static_cast<int64_t>(shape_.size()));
}

nb::object DeviceArray::Stream() const {
  return stream_ == 0 ? nb::none() : nb::object(nb::int_(stream_));
}

// A library that looks for it must find that there is none, if there is none.
nb::object DeviceArray::CudaInterface() const {
  if (device_.type != kDlpackCuda) {
    throw nb::attribute_error("this array is in the memory of the host");
  }
  if (FindDtype(code_)->type_num >= NPY_OBJECT && code_ != 10) {
    throw nb::attribute_error("CUDA's array interface has no type for this dtype; use DLPack");
  }
  CheckAlive();
  nb::dict found;
  found["shape"] = Shape();
  found["typestr"] = Dtype().attr("str");
  found["data"] = nb::make_tuple(reinterpret_cast<uintptr_t>(data_), !writable_);
  found["version"] = 3;
  found["strides"] = nb::none();
  found["stream"] = Stream();
  return found;
}

// DLPack's numbers of streams: 1 and 2 are the driver's own for the default streams, -1 asks for no order.
void DeviceArray::Admit(nb::handle stream) const {
  if (order_ == nullptr) return;
  const int64_t number = stream.is_none() ? 1 : nb::cast<int64_t>(stream);
  if (number == 0) throw nb::buffer_error("0 is not the number of a stream in DLPack");
  if (number != -1 && static_cast<uintptr_t>(number) != stream_) {
    order_->Admit(static_cast<uintptr_t>(number));
  }
}

nb::object DeviceArray::Export(nb::handle_t<DeviceArray> self, nb::object stream,
                               nb::object max_version, nb::object device, nb::object copy) {
  const auto& array = *nb::inst_ptr<DeviceArray>(self);
  array.CheckAlive();
  if (!copy.is_none() && nb::cast<bool>(copy)) {
    throw nb::buffer_error("this array makes no copies; copy what you make of it");
  }
  if (!device.is_none()) {
    const auto wanted = nb::cast<std::pair<int32_t, int32_t>>(device);
    if (wanted.first != array.device_.type || wanted.second != array.device_.id) {
      throw nb::buffer_error("this array cannot be handed to another device");
    }
  }
  auto versioned = NewExport<DlpackManagedVersioned>(array, self);
  array.Admit(stream);
  if (max_version.is_none() || nb::cast<int64_t>(max_version[0]) < 1) {
    return NewCapsule(NewExport<DlpackManaged>(array, self), kDlpackName);
  }
  versioned->managed.version = kDlpackVersion;
  versioned->managed.flags = array.writable_ ? 0 : kDlpackReadOnly;
  return NewCapsule(std::move(versioned), kDlpackVersionedName);
}

// Adds the class DeviceArray.
void DefineDeviceArrays(nb::module_& m) {
  nb::class_<DeviceArray>(m, "DeviceArray", "An array that other libraries take by DLPack.")
      .def(nb::init<nb::handle>(), nb::arg("array"),
           nb::sig("def __init__(self, array: numpy.ndarray) -> None"),
           "Over a NumPy array's memory.")
      .def_prop_ro("shape", &DeviceArray::Shape, nb::sig("def shape(self) -> tuple[int, ...]"))
      .def_prop_ro("dtype", &DeviceArray::Dtype, nb::sig("def dtype(self) -> numpy.dtype"))
      .def_prop_ro("stream", &DeviceArray::Stream, nb::sig("def stream(self) -> int | None"),
                   "XLA's stream, which the memory belongs to; None: no GPU's.")
      .def_prop_ro(
          "pointer",
          [](const DeviceArray& self) { return reinterpret_cast<uintptr_t>(self.data()); },
          "The address of the memory.")
      .def_prop_ro("__cuda_array_interface__", &DeviceArray::CudaInterface,
                   nb::sig("def __cuda_array_interface__(self) -> dict"),
                   "Of arrays on NVIDIA's GPUs.")
      .def("__dlpack_device__",
           [](const DeviceArray& self) {
             return std::pair<int, int>(self.device().type, self.device().id);
           })
      .def("__dlpack__", &DeviceArray::Export, nb::kw_only(), nb::arg("stream") = nb::none(),
           nb::arg("max_version") = nb::none(), nb::arg("dl_device") = nb::none(),
           nb::arg("copy") = nb::none(),
           nb::sig(
               "def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | "
               "None = None, dl_device: tuple[int, int] | None = None, copy: bool | None = None) "
               "-> object"));
  m.def(
      "device_of_call",
      []() -> nb::object {
        if (device_of_call == nullptr) return nb::none();
        return nb::make_tuple(device_of_call->ordinal, device_of_call->stream);
      },
      nb::sig("def device_of_call() -> tuple[int, int] | None"),
      "The GPU, and XLA's stream, of the call on this thread whose function gets arrays there.");
  m.def("from_dlpack", &FromDlpack, nb::arg("object"), nb::arg("stream") = nb::none(),
        nb::sig("def from_dlpack(object: object, stream: int | None = None) -> object"),
        "A NumPy array, or a DeviceArray on a GPU, over what exports itself by DLPack, or a "
        "capsule.");
}

}  // namespace callbax
