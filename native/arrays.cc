#include "arrays.h"

#include <cstring>
#include <memory>
#include <new>

#include "block_pool.h"

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

PyArrayObject_fields* Fields(PyObject* array) {
  return reinterpret_cast<PyArrayObject_fields*>(array);
}

PyArray_Descr* NewDescr(const Dtype& dtype) {
  auto* descr = static_cast<PyArray_Descr*>(dtype.descr);
  Py_INCREF(descr);
  return descr;
}

constexpr const char* kAdoptedName = "callbax.memory";

void FreeAdopted(PyObject* capsule) {
  delete static_cast<Reference*>(PyCapsule_GetPointer(capsule, kAdoptedName));
}

// Memory and the capsule that owns it, or null with an error set.
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

// An array over memory that `owner`, which it steals, keeps; or null with an error set.
PyObject* NewArrayOver(const Dtype& dtype, int64_t rank, const int64_t* dims, void* memory,
                       PyObject* owner) {
  if (owner == nullptr) return nullptr;
  nb::object array =
      nb::steal(PyArray_NewFromDescr(&PyArray_Type, NewDescr(dtype), static_cast<int>(rank),
                                     Shape(dims), nullptr, memory, NPY_ARRAY_CARRAY, nullptr));
  if (!array) {
    Py_DECREF(owner);
    return nullptr;
  }
  // Steals the owner, also when it fails.
  if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array.ptr()), owner) < 0) {
    return nullptr;
  }
  return array.release().ptr();
}

PyObject* NewLargeArray(const Dtype& dtype, int64_t rank, const int64_t* dims, int64_t bytes) {
  void* memory = nullptr;
  PyObject* owner = NewMemory(bytes, &memory);
  return NewArrayOver(dtype, rank, dims, memory, owner);
}

// An array that has the operand's own memory from now on.
PyObject* Adopt(const Dtype& dtype, const Buffer& operand) {
  auto owner = std::make_unique<Reference>(*operand.owner);
  PyObject* capsule = PyCapsule_New(owner.get(), kAdoptedName, FreeAdopted);
  if (capsule != nullptr) owner.release();
  return NewArrayOver(dtype, operand.rank, operand.dims, operand.data, capsule);
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

// Whether the callback left an array just as it was made, with nobody else holding it. `flags` are
// those of kOwnFlags that it was made with.
bool Pristine(PyObject* object, const Dtype& dtype, const Buffer& buffer, int flags) {
  auto* array = reinterpret_cast<PyArrayObject*>(object);
  return Py_REFCNT(object) == 1 && Fields(object)->weakreflist == nullptr &&
         (PyArray_FLAGS(array) & kOwnFlags) == flags && PyArray_DESCR(array) == dtype.descr &&
         PyArray_NDIM(array) == buffer.rank &&
         (buffer.rank == 0 ||
          std::memcmp(PyArray_DIMS(array), buffer.dims, buffer.rank * sizeof(int64_t)) == 0);
}

// An empty buffer may have no address, and NumPy would then make memory of its own.
char* Address(const Buffer& buffer) {
  alignas(64) static char nothing[64];
  return buffer.data == nullptr ? nothing : static_cast<char*>(buffer.data);
}

}  // namespace

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
  if (operand.owner != nullptr && !dtype.packed()) return Adopt(dtype, operand);
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
  const bool adopted = PyArray_DATA(reinterpret_cast<PyArrayObject*>(array)) == operand.data;
  if (!adopted && spare.arrays.size() < kSpareLimit && Pristine(array, dtype, operand, kOwnFlags)) {
    spare.arrays.push_back(array);
  } else {
    Py_DECREF(array);
  }
}

PyObject* TakeView(SpareArrays& spare, const Dtype& dtype, const Buffer& buffer, bool writable) {
  if (!spare.arrays.empty()) {
    auto* view = static_cast<PyObject*>(spare.arrays.back());
    spare.arrays.pop_back();
    Fields(view)->data = Address(buffer);
    return view;
  }
  nb::object view = nb::steal(PyArray_NewFromDescr(
      &PyArray_Type, NewDescr(dtype), static_cast<int>(buffer.rank), Shape(buffer.dims), nullptr,
      Address(buffer), writable ? NPY_ARRAY_CARRAY : NPY_ARRAY_CARRAY_RO, nullptr));
  if (!view) return nullptr;
  // NumPy lets an array with neither memory nor an owner be made writable again.
  Py_INCREF(Py_None);
  if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(view.ptr()), Py_None) < 0) {
    return nullptr;
  }
  return view.release().ptr();
}

void ReturnView(SpareArrays& spare, const Dtype& dtype, const Buffer& buffer, bool writable,
                PyObject* view) {
  const int flags = writable ? NPY_ARRAY_CARRAY : NPY_ARRAY_CARRAY_RO;
  if (spare.arrays.size() < kSpareLimit && Fields(view)->base == Py_None &&
      Pristine(view, dtype, buffer, flags)) {
    spare.arrays.push_back(view);
  } else {
    Py_DECREF(view);
  }
}

Move Detach(PyObject* view, const Dtype& dtype, const Buffer& buffer) noexcept {
  PyArrayObject_fields* fields = Fields(view);
  const int64_t bytes = Bytes(dtype, buffer);
  if (bytes == 0 || fields->base != Py_None || fields->data != buffer.data) return {};
  void* memory = nullptr;
  PyObject* owner = NewMemory(bytes, &memory);
  if (owner == nullptr) {
    PyErr_Clear();  // the error that follows says that the array must not be used
    return {};
  }
  const Move move{fields->data, static_cast<char*>(memory), bytes};
  std::memcpy(move.to, move.from, static_cast<size_t>(bytes));
  fields->data = move.to;
  fields->base = owner;
  Py_DECREF(Py_None);
  return move;
}

void Follow(PyObject* object, const Move& move) noexcept {
  char** pointer = nullptr;
  if (PyArray_Check(object)) {
    pointer = &Fields(object)->data;
  } else if (PyMemoryView_Check(object)) {
    pointer = reinterpret_cast<char**>(&PyMemoryView_GET_BUFFER(object)->buf);
  }
  // The end belongs to it: an empty slice may lie there.
  if (pointer == nullptr || *pointer < move.from || *pointer > move.from + move.bytes) return;
  *pointer = move.to + (*pointer - move.from);
}

}  // namespace callbax
