#include <nanobind/stl/pair.h>

#include <utility>
#include <vector>

#include "device_array.h"
#include "dtypes.h"

namespace callbax {
namespace {

// The tensor in a capsule, which holds it.
const DlpackTensor& TensorIn(nb::handle capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), kDlpackVersionedName)) {
    auto* managed = static_cast<DlpackManagedVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), kDlpackVersionedName));
    if (managed->version.major != kDlpackVersion.major) {
      throw nb::buffer_error("an array's DLPack has another major version than 1");
    }
    return managed->tensor;
  }
  if (!PyCapsule_IsValid(capsule.ptr(), kDlpackName)) {
    throw nb::buffer_error("not a DLPack capsule");
  }
  return static_cast<DlpackManaged*>(PyCapsule_GetPointer(capsule.ptr(), kDlpackName))->tensor;
}

bool IsOnHost(const DlpackDevice& device) {
  return device.type == kDlpackCpu || device.type == kDlpackCudaHost;
}

// From libraries that do not know versions, too.
nb::object CapsuleOf(nb::handle object, nb::handle stream) {
  const auto device = nb::cast<std::pair<int32_t, int32_t>>(object.attr("__dlpack_device__")());
  nb::dict arguments;
  if (!stream.is_none() && !IsOnHost({device.first, device.second})) arguments["stream"] = stream;
  try {
    return object.attr("__dlpack__")(nb::arg("max_version") = nb::make_tuple(1, 0), **arguments);
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return object.attr("__dlpack__")(**arguments);
}

nb::object NumpyArrayOver(const DlpackTensor& tensor, const nb::object& owner) {
  const Dtype* dtype = FindDtype(CodeOfDlpack(tensor.type));
  std::vector<npy_intp> shape(tensor.shape, tensor.shape + tensor.rank), strides;
  for (int i = 0; tensor.strides != nullptr && i < tensor.rank; ++i) {
    strides.push_back(tensor.strides[i] * dtype->itemsize);
  }
  static char nothing[16];  // an empty array may have no address
  char* data = tensor.data ? static_cast<char*>(tensor.data) + tensor.byte_offset : nothing;
  auto* descr = static_cast<PyArray_Descr*>(dtype->descr);
  Py_INCREF(descr);
  nb::object array = nb::steal(
      PyArray_NewFromDescr(&PyArray_Type, descr, tensor.rank, shape.data(),
                           tensor.strides != nullptr ? strides.data() : nullptr, data, 0, nullptr));
  if (!array) nb::raise_python_error();
  // Steals the owner, also when it fails.
  if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array.ptr()), owner.inc_ref().ptr()) <
      0) {
    nb::raise_python_error();
  }
  return array;
}

bool IsContiguous(const DlpackTensor& tensor) {
  int64_t stride = 1;
  for (int i = tensor.rank; tensor.strides != nullptr && i-- > 0;) {
    if (tensor.shape[i] == 0) return true;
    if (tensor.shape[i] != 1 && tensor.strides[i] != stride) return false;
    stride *= tensor.shape[i];
  }
  return true;
}

}  // namespace

nb::object FromDlpack(nb::handle object, nb::object stream) {
  nb::object capsule =
      PyCapsule_CheckExact(object.ptr()) ? nb::borrow(object) : CapsuleOf(object, stream);
  const DlpackTensor& tensor = TensorIn(capsule);
  if (IsOnHost(tensor.device)) return NumpyArrayOver(tensor, capsule);
  if (!IsContiguous(tensor)) {
    throw nb::buffer_error("an array on a GPU must be contiguous, in C order");
  }
  std::vector<int64_t> shape(tensor.shape, tensor.shape + tensor.rank);
  return nb::cast(DeviceArray(CodeOfDlpack(tensor.type),
                              static_cast<char*>(tensor.data) + tensor.byte_offset,
                              std::move(shape), tensor.device, true, capsule));
}

}  // namespace callbax
