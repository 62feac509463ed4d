#include "arrays.h"

#include <cstring>
#include <new>

#include "blocks.h"
#include "numpy_api.h"

namespace callbax {
namespace {

// Below: the array owns NumPy's memory and is itself recycled. Above: memory from the block pool.
constexpr int64_t kLargeBytes = 64 * 1024;
// More than one is needed only when several threads run the same call at once.
constexpr size_t kSpareLimit = 4;
// Those that a callback can change, or that tell an array with memory of its own.
constexpr int kOwnFlags =
    NPY_ARRAY_OWNDATA | NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED | NPY_ARRAY_WRITEABLE;
constexpr const char* kCapsuleName = "callbax.block";

void FreeCapsule(PyObject* capsule) { ReturnBlock(PyCapsule_GetPointer(capsule, kCapsuleName)); }

const npy_intp* Shape(const int64_t* dims) {
  static_assert(sizeof(npy_intp) == sizeof(int64_t), "callbax needs a 64-bit platform");
  return reinterpret_cast<const npy_intp*>(dims);
}

PyArray_Descr* NewDescr(const Dtype& dtype) {
  auto* descr = static_cast<PyArray_Descr*>(dtype.descr);
  Py_INCREF(descr);
  return descr;
}

PyObject* NewLargeArray(const Dtype& dtype, int64_t rank, const int64_t* dims, int64_t bytes) {
  void* memory = nullptr;
  PyObject* owner = NewMemory(bytes, &memory);
  if (owner == nullptr) return nullptr;
  Owned array(PyArray_NewFromDescr(&PyArray_Type, NewDescr(dtype), static_cast<int>(rank),
                                   Shape(dims), nullptr, memory, NPY_ARRAY_CARRAY, nullptr));
  if (!array) {
    Py_DECREF(owner);
    return nullptr;
  }
  // Steals the owner, also when it fails.
  if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array.get()), owner) < 0) {
    return nullptr;
  }
  return array.release();
}

PyObject* NewArray(const Dtype& dtype, int64_t rank, const int64_t* dims, int64_t bytes) {
  if (bytes >= kLargeBytes) return NewLargeArray(dtype, rank, dims, bytes);
  return PyArray_NewFromDescr(&PyArray_Type, NewDescr(dtype), static_cast<int>(rank), Shape(dims),
                              nullptr, nullptr, 0, nullptr);
}

void Fill(PyObject* array, const Dtype& dtype, const Buffer& operand) {
  const int64_t count = CountElements(operand.rank, operand.dims);
  const int64_t bytes = count * dtype.itemsize;
  void* destination = PyArray_DATA(reinterpret_cast<PyArrayObject*>(array));
  if (dtype.packed() && !operand.expanded) {
    Unpack(dtype, operand.data, count, destination);
  } else if (bytes > 0) {
    std::memcpy(destination, operand.data, static_cast<size_t>(bytes));
  }
}

int64_t Bytes(const Dtype& dtype, const Buffer& buffer) {
  return CountElements(buffer.rank, buffer.dims) * dtype.itemsize;
}

}  // namespace

PyObject* NewMemory(int64_t bytes, void** memory) {
  try {
    *memory = TakeBlock(static_cast<size_t>(bytes));
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
  PyObject* capsule = PyCapsule_New(*memory, kCapsuleName, FreeCapsule);
  if (capsule == nullptr) ReturnBlock(*memory);
  return capsule;
}

bool Pristine(PyObject* object, const Dtype& dtype, const Buffer& buffer, int flags) {
  auto* array = reinterpret_cast<PyArrayObject*>(object);
  return Py_REFCNT(object) == 1 &&
         reinterpret_cast<PyArrayObject_fields*>(object)->weakreflist == nullptr &&
         (PyArray_FLAGS(array) & kOwnFlags) == flags && PyArray_DESCR(array) == dtype.descr &&
         PyArray_NDIM(array) == buffer.rank &&
         (buffer.rank == 0 ||
          std::memcmp(PyArray_DIMS(array), buffer.dims, buffer.rank * sizeof(int64_t)) == 0);
}

PyObject* NewScratch(const Dtype& dtype, const Buffer& buffer) {
  return NewLargeArray(dtype, buffer.rank, buffer.dims, Bytes(dtype, buffer));
}

PyObject* NewReadOnlyCopy(const Dtype& dtype, const Buffer& operand) {
  // NumPy would let an array that has memory of its own be made writable again.
  PyObject* array = NewScratch(dtype, operand);
  if (array == nullptr) return nullptr;
  Fill(array, dtype, operand);
  PyArray_CLEARFLAGS(reinterpret_cast<PyArrayObject*>(array), NPY_ARRAY_WRITEABLE);
  return array;
}

PyObject* TakeArgument(SpareArrays& spare, const Dtype& dtype, const Buffer& operand) {
  PyObject* array = nullptr;
  if (!spare.arrays.empty()) {
    array = static_cast<PyObject*>(spare.arrays.back());
    spare.arrays.pop_back();
  } else {
    array = NewArray(dtype, operand.rank, operand.dims, Bytes(dtype, operand));
    if (array == nullptr) return nullptr;
  }
  Fill(array, dtype, operand);
  return array;
}

void ReturnArgument(SpareArrays& spare, const Dtype& dtype, const Buffer& operand,
                    PyObject* array) {
  if (spare.arrays.size() < kSpareLimit && Pristine(array, dtype, operand, kOwnFlags)) {
    spare.arrays.push_back(array);
  } else {
    Py_DECREF(array);
  }
}

}  // namespace callbax
