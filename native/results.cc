#include "outcome.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "arrays.h"
#include "dtypes.h"
#include "system.h"

namespace callbax {
namespace {

PyArrayObject* AsArray(PyObject* object) { return reinterpret_cast<PyArrayObject*>(object); }

bool SameShape(PyArrayObject* array, const Buffer& target) {
  return PyArray_NDIM(array) == target.rank &&
         (target.rank == 0 ||
          std::memcmp(PyArray_DIMS(array), target.dims, target.rank * sizeof(int64_t)) == 0);
}

// XLA relies on bytes of booleans being 0 or 1; NumPy lets views of other types slip in others.
void CopyBooleans(const void* source, int64_t count, void* destination) {
  const auto* in = static_cast<const uint8_t*>(source);
  auto* out = static_cast<uint8_t*>(destination);
  for (int64_t i = 0; i < count; ++i) out[i] = in[i] != 0;
}

void CopyContiguous(const Dtype& dtype, const void* source, int64_t count, const Buffer& target) {
  if (count == 0) return;
  void* destination = target.data;
  if (dtype.packed() && !target.expanded) {
    Pack(dtype, source, count, destination);
  } else if (dtype.type_num == NPY_BOOL) {
    CopyBooleans(source, count, destination);
  } else if (target.destination != nullptr) {
    nb::gil_scoped_release released;  // it may wait; the caller holds the array
    target.destination->Send(source);
  } else {
    const int64_t bytes = count * dtype.itemsize;
    if (bytes >= kHugeResult) AdviseHugePages(destination, static_cast<size_t>(bytes));
    std::memcpy(destination, source, static_cast<size_t>(bytes));
  }
}

// An array of just the right type and shape, in any memory layout. False with an error set.
bool CopyArray(PyArrayObject* array, const Dtype& dtype, const Buffer& target) {
  const int64_t count = CountElements(target.rank, target.dims);
  if (PyArray_IS_C_CONTIGUOUS(array) && PyArray_ISALIGNED(array)) {
    CopyContiguous(dtype, PyArray_DATA(array), count, target);
    return true;
  }
  if (dtype.packed() || dtype.type_num == NPY_BOOL) {
    nb::object contiguous = nb::steal(PyArray_NewCopy(array, NPY_CORDER));
    if (!contiguous) return false;
    CopyContiguous(dtype, PyArray_DATA(AsArray(contiguous.ptr())), count, target);
    return true;
  }
  auto* descr = static_cast<PyArray_Descr*>(dtype.descr);
  Py_INCREF(descr);
  nb::object view =
      nb::steal(PyArray_NewFromDescr(&PyArray_Type, descr, static_cast<int>(target.rank),
                                     reinterpret_cast<const npy_intp*>(target.dims), nullptr,
                                     target.data, NPY_ARRAY_CARRAY, nullptr));
  return view && PyArray_CopyInto(AsArray(view.ptr()), array) == 0;
}

enum class Written { kYes, kNotDirectly, kFailed };

Written WriteArray(PyArrayObject* array, const Dtype& dtype, const Buffer& target) {
  PyArray_Descr* descr = PyArray_DESCR(array);
  if (descr->type_num != dtype.type_num || !PyArray_ISNBO(descr->byteorder) ||
      !SameShape(array, target)) {
    return Written::kNotDirectly;
  }
  return CopyArray(array, dtype, target) ? Written::kYes : Written::kFailed;
}

template <typename T, typename Number>
Written Put(Number number, const Buffer& target) {
  const auto value = static_cast<T>(number);
  std::memcpy(target.data, &value, sizeof value);
  return Written::kYes;
}

template <typename T>
bool Holds(int64_t number) {
  constexpr int64_t kLargest = std::is_floating_point_v<T>
                                   ? int64_t{1} << std::numeric_limits<T>::digits
                                   : std::numeric_limits<T>::max();
  return -kLargest <= number && number <= kLargest;
}

// Python's own numbers, where _host/results.py converts them too.
[[gnu::noinline]] Written WritePythonScalar(const CallSite& site, PyObject* value,
                                            const Dtype& dtype, const Buffer& target) {
  const bool casts = !site.casting.empty();
  if (PyFloat_CheckExact(value)) {
    const double number = PyFloat_AS_DOUBLE(value);
    if (dtype.type_num == NPY_DOUBLE) return Put<double>(number, target);
    if (dtype.type_num == NPY_FLOAT && (site.canonicalize || casts)) {
      return Put<float>(number, target);
    }
    return Written::kNotDirectly;
  }
  const bool is_bool = PyBool_Check(value);
  if (is_bool && dtype.type_num == NPY_BOOL) return Put<uint8_t>(value == Py_True, target);
  if (is_bool ? !casts : !PyLong_CheckExact(value)) return Written::kNotDirectly;
  int overflow = 0;
  const int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow != 0) return Written::kNotDirectly;
  switch (dtype.type_num) {
    case NPY_LONG:
    case NPY_LONGLONG:
      if (dtype.itemsize == sizeof number) return Put<int64_t>(number, target);
      break;
    case NPY_INT:
      if ((site.canonicalize || casts) && Holds<int32_t>(number)) {
        return Put<int32_t>(number, target);
      }
      break;
    case NPY_FLOAT:
      if (casts && Holds<float>(number)) return Put<float>(number, target);
      break;
    case NPY_DOUBLE:
      if (casts && Holds<double>(number)) return Put<double>(number, target);
      break;
    default: break;
  }
  return Written::kNotDirectly;
}

// One leaf of the result.
Written WriteLeaf(const CallSite& site, PyObject* value, const Buffer& target) {
  const Dtype* dtype = FindDtype(target.dtype);
  if (dtype == nullptr) return Written::kNotDirectly;
  if (PyArray_CheckExact(value)) return WriteArray(AsArray(value), *dtype, target);
  if (target.rank != 0) return Written::kNotDirectly;
  if (PyArray_IsScalar(value, Generic) && dtype->type_num < NPY_OBJECT) {
    nb::object descr = nb::steal(reinterpret_cast<PyObject*>(PyArray_DescrFromScalar(value)));
    if (!descr) return Written::kFailed;
    if (reinterpret_cast<PyArray_Descr*>(descr.ptr())->type_num == dtype->type_num) {
      PyArray_ScalarAsCtype(value, target.data);
      return Written::kYes;
    }
    return Written::kNotDirectly;
  }
  return WritePythonScalar(site, value, *dtype, target);
}

Written WriteDirectly(const CallSite& site, PyObject* value, const std::vector<Buffer>& results) {
  const auto count = static_cast<Py_ssize_t>(results.size());
  if (count == 0) return value == Py_None ? Written::kYes : Written::kNotDirectly;
  if (count == 1 && !PyTuple_CheckExact(value) && !PyList_CheckExact(value)) {
    return WriteLeaf(site, value, results[0]);
  }
  if (!PyTuple_CheckExact(value) && !PyList_CheckExact(value)) return Written::kNotDirectly;
  // Copying may release the GIL, and another thread may change a list meanwhile.
  nb::object items = nb::steal(PySequence_Tuple(value));
  if (!items) return Written::kFailed;
  if (PyTuple_GET_SIZE(items.ptr()) != count) return Written::kNotDirectly;
  for (Py_ssize_t i = 0; i < count; ++i) {
    const Written written = WriteLeaf(site, PyTuple_GET_ITEM(items.ptr(), i), results[i]);
    if (written != Written::kYes) return written;
  }
  return Written::kYes;
}

// Whether a result is declared float0: of no data, and no other dtype will do. JAX has them as false.
bool IsEmpty(const CallSite& site, Py_ssize_t i) {
  return std::find(site.empty.begin(), site.empty.end(), i) != site.empty.end();
}

// Python's part: any tree, any array-like, and the errors.
bool WriteThroughPython(const CallSite& site, PyObject* value, const std::vector<Buffer>& results,
                        Device* device) {
  const auto count = static_cast<Py_ssize_t>(results.size());
  nb::object shapes = nb::steal(PyTuple_New(count));
  nb::object dtypes = nb::steal(PyTuple_New(count));
  if (!shapes || !dtypes) return false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    const Dtype* dtype = FindDtype(results[i].dtype);
    if (dtype == nullptr) {
      PyErr_Format(PyExc_TypeError, "XLA data type %d has no NumPy dtype", results[i].dtype);
      return false;
    }
    nb::object shape = TupleOf(results[i].dims, results[i].rank);
    if (!shape) return false;
    PyTuple_SET_ITEM(shapes.ptr(), i, shape.release().ptr());
    PyObject* descr = static_cast<PyObject*>(dtype->descr);
    if (IsEmpty(site, i)) descr = static_cast<PyObject*>(EmptyDescr());
    if (descr == nullptr) return false;
    PyTuple_SET_ITEM(dtypes.ptr(), i, Py_NewRef(descr));
  }
  nb::object arrays = nb::steal(PyObject_CallFunction(
      GetHooks().convert, "OOOOOs", static_cast<PyObject*>(site.callback->target()), value,
      shapes.ptr(), dtypes.ptr(), site.canonicalize ? Py_True : Py_False, site.casting.c_str()));
  if (!arrays) return false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* array = PyList_GET_ITEM(arrays.ptr(), i);
    if (device != nullptr) {
      if (IsEmpty(site, i)) {
        device->Fill(results[i], 0);
      } else if (!device->Write(results[i], array)) {
        return false;
      }
      continue;
    }
    if (IsEmpty(site, i)) {
      const int64_t elements = CountElements(results[i].rank, results[i].dims);
      std::memset(results[i].data, 0, static_cast<size_t>(elements));
      continue;
    }
    const Written written = WriteLeaf(site, array, results[i]);
    if (written == Written::kFailed) return false;
    if (written == Written::kNotDirectly) {
      PyErr_SetString(PyExc_SystemError, "callbax: a converted result does not fit its buffer");
      return false;
    }
  }
  return true;
}

}  // namespace

bool WriteResults(const CallSite& site, PyObject* value, const std::vector<Buffer>& results,
                  Device* device) {
  if (site.out || !site.empty.empty() || device != nullptr) {
    return WriteThroughPython(site, value, results, device);
  }
  switch (WriteDirectly(site, value, results)) {
    case Written::kYes: return true;
    case Written::kFailed: return false;
    case Written::kNotDirectly: return WriteThroughPython(site, value, results, nullptr);
  }
  return false;
}

void PrepareToWrite(const Dtype& dtype, const Buffer& target) noexcept {
  const int64_t bytes = CountElements(target.rank, target.dims) * dtype.itemsize;
  if (bytes >= kHugeResult) AdviseHugePages(target.data, static_cast<size_t>(bytes));
}

void FinishWriting(PyObject* array, const Dtype& dtype, const Buffer& target) noexcept {
  const int64_t count = CountElements(target.rank, target.dims);
  if (array != nullptr) {
    CopyContiguous(dtype, PyArray_DATA(AsArray(array)), count, target);
  } else if (dtype.type_num == NPY_BOOL) {
    CopyBooleans(target.data, count, target.data);
  }
}

void Poison(const std::vector<Buffer>& results, Device* device) noexcept {
  for (const Buffer& target : results) {
    const Dtype* dtype = FindDtype(target.dtype);
    if (dtype == nullptr) continue;
    if (device != nullptr) {  // all ones are a NaN of types with more than a byte
      const auto byte =
          static_cast<uint8_t>(dtype->bits == 8 || dtype->nan == 0 ? dtype->nan : 0xFF);
      device->Fill(target, byte);
      continue;
    }
    if (target.destination != nullptr) target.destination->Withdraw();
    const int64_t count = CountElements(target.rank, target.dims);
    if (dtype->nan == 0) {
      const int64_t bytes = target.expanded ? count * dtype->itemsize : dtype->stored_bytes(count);
      std::memset(target.data, 0, static_cast<size_t>(bytes));
      continue;
    }
    const bool is_complex = dtype->type_num == NPY_CFLOAT || dtype->type_num == NPY_CDOUBLE;
    const int parts = is_complex ? 2 : 1;
    const int64_t width = dtype->itemsize / parts;
    auto* out = static_cast<char*>(target.data);
    // The low bytes of the pattern come first: this is for little-endian machines, as XLA on CPU is.
    for (int64_t i = 0; i < parts * count; ++i) std::memcpy(out + i * width, &dtype->nan, width);
  }
}

}  // namespace callbax
