#include "views.h"

#include <cstring>
#include <new>

#include "arrays.h"
#include "numpy_api.h"

namespace callbax {
namespace {

// More than one is needed only when several threads run the same call at once.
constexpr size_t kSpareLimit = 4;

PyArrayObject_fields* Fields(PyObject* array) {
  return reinterpret_cast<PyArrayObject_fields*>(array);
}

// An empty buffer may have no address, and NumPy would then make memory of its own.
char* Address(const Buffer& buffer) {
  alignas(64) static char nothing[64];
  return buffer.data == nullptr ? nothing : static_cast<char*>(buffer.data);
}

}  // namespace

PyObject* TakeView(SpareArrays& spare, const Dtype& dtype, const Buffer& buffer, bool writable) {
  if (!spare.arrays.empty()) {
    auto* view = static_cast<PyObject*>(spare.arrays.back());
    spare.arrays.pop_back();
    Fields(view)->data = Address(buffer);
    return view;
  }
  auto* descr = static_cast<PyArray_Descr*>(dtype.descr);
  Py_INCREF(descr);
  Owned view(PyArray_NewFromDescr(&PyArray_Type, descr, static_cast<int>(buffer.rank),
                                  reinterpret_cast<const npy_intp*>(buffer.dims), nullptr,
                                  Address(buffer),
                                  writable ? NPY_ARRAY_CARRAY : NPY_ARRAY_CARRAY_RO, nullptr));
  if (!view) return nullptr;
  // NumPy lets an array with neither memory nor an owner be made writable again.
  Py_INCREF(Py_None);
  if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(view.get()), Py_None) < 0) {
    return nullptr;
  }
  return view.release();
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
  const int64_t bytes = CountElements(buffer.rank, buffer.dims) * dtype.itemsize;
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
