#include "ufuncs.h"

#include <memory>
#include <vector>

#include "loops.h"

#include <numpy/ufuncobject.h>

namespace callbax {
namespace {

// What the ufunc points to: NumPy keeps the pointers and copies nothing.
struct Storage {
  ~Storage() { Py_XDECREF(owner); }

  std::string name;
  std::string doc;
  ScalarFunction callee;
  std::vector<char> types;  // NumPy's type numbers: arguments, then the result
  PyUFuncGenericFunction loops[1] = {};
  void* data[1] = {};
  PyObject* owner = nullptr;
};

constexpr char kCapsuleName[] = "callbax.scalar_ufunc";

void DeleteStorage(PyObject* capsule) {
  delete static_cast<Storage*>(PyCapsule_GetPointer(capsule, kCapsuleName));
}

char TypeNumber(char letter) {
  switch (letter) {
    case 'f': return NPY_FLOAT32;
    case 'i': return NPY_INT32;
    case 'l': return NPY_INT64;
    case 'F': return NPY_COMPLEX64;
    case 'D': return NPY_COMPLEX128;
    default: return NPY_FLOAT64;
  }
}

}  // namespace

bool ImportUfuncApi() { return PyUFunc_ImportUFuncAPI() >= 0; }

std::pair<uintptr_t, uintptr_t> UfuncLoop(PyObject* ufunc, int index) {
  // Not every object that acts as a ufunc is one inside.
  if (!PyObject_TypeCheck(ufunc, &PyUFunc_Type)) {
    PyErr_SetString(PyExc_TypeError, "not a numpy.ufunc");
    return {};
  }
  const auto* inside = reinterpret_cast<PyUFuncObject*>(ufunc);
  if (index < 0 || index >= inside->ntypes) {
    PyErr_SetString(PyExc_IndexError, "the ufunc has no such loop");
    return {};
  }
  const auto data = inside->data == nullptr ? nullptr : inside->data[index];
  return {reinterpret_cast<uintptr_t>(inside->functions[index]), reinterpret_cast<uintptr_t>(data)};
}

PyObject* MakeScalarUfunc(const std::string& name, const std::string& doc,
                          const std::string& signature, void* function, void* user_data,
                          PyObject* owner) {
  const LoopFunction loop = FindScalarLoop(signature);
  if (loop == nullptr) {
    PyErr_Format(PyExc_ValueError, "there is no loop for C functions of the signature %s",
                 signature.c_str());
    return nullptr;
  }
  auto storage = std::make_unique<Storage>();
  storage->name = name;
  storage->doc = doc;
  storage->callee = {function, user_data};
  storage->owner = Py_NewRef(owner);
  const size_t arguments = signature.find('>');
  for (size_t i = 0; i < arguments; ++i) storage->types.push_back(TypeNumber(signature[i]));
  storage->types.push_back(TypeNumber(signature[arguments + 1]));
  storage->loops[0] = reinterpret_cast<PyUFuncGenericFunction>(loop);
  storage->data[0] = &storage->callee;
  Storage* raw = storage.get();
  nb::object capsule = nb::steal(PyCapsule_New(raw, kCapsuleName, DeleteStorage));
  if (!capsule) return nullptr;
  storage.release();  // the capsule owns it now
  PyObject* ufunc = PyUFunc_FromFuncAndData(raw->loops, raw->data, raw->types.data(), 1,
                                            static_cast<int>(arguments), 1, PyUFunc_None,
                                            raw->name.c_str(), raw->doc.c_str(), 0);
  // NumPy's place for an object that the loops need; the ufunc drops it when it dies.
  if (ufunc != nullptr) reinterpret_cast<PyUFuncObject*>(ufunc)->obj = capsule.release().ptr();
  return ufunc;
}

}  // namespace callbax
