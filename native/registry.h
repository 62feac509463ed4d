// Names in compiled programs -> the callees that they mean: Python functions and compiled code.
//
// A callee is shared by the executables that may call it (their FFI states) and by the Registration
// objects of Python; it dies with the last of them, and what it refers to with it. The table holds
// weak references only, so it never keeps a callee alive.
//
// Thread safety: every function may be called from any thread; none needs the GIL.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace callbax {

// An owned reference to a Python object, opaque here; it may be dropped on any thread.
using Reference = std::shared_ptr<void>;

// What programs may call, under its name in them.
class Callee {
 public:
  Callee(std::string name, Reference target) : name_(std::move(name)), target_(std::move(target)) {}
  virtual ~Callee();
  Callee(const Callee&) = delete;
  Callee& operator=(const Callee&) = delete;

  const std::string& name() const { return name_; }
  // What Python has registered: a HostCall or a Loop.
  void* target() const { return target_.get(); }

  // The contextvars.Context of the newest trace that calls this, as long as a Registration keeps it.
  // Programs take it when they are compiled: each trace has its own.
  void SetContext(const Reference& context);
  Reference Context();

 private:
  const std::string name_;
  const Reference target_;
  std::mutex mutex_;
  std::weak_ptr<void> context_;  // guarded by mutex_
};

using CalleePtr = std::shared_ptr<Callee>;

// A compiled function of the prototype in callbax/kernel.h. Its target keeps it alive.
struct NativeKernel {
  void* function = nullptr;
  void* user_data = nullptr;
};

// A Python function, or a kernel.
struct Callback final : Callee {
  using Callee::Callee;

  Reference function;   // the user's, if its arguments are flat, or the target
  Reference keywords;   // a tuple of names of trailing keyword arguments, or null
  NativeKernel kernel;  // called in place of the function, if there is one
};

// The living callee of that name, or null.
CalleePtr FindCallee(const std::string& name);

// Enters a callee, unless a living one has its name: then that one is returned, and the caller must
// compare targets.
CalleePtr AddCallee(CalleePtr fresh);

size_t LiveCallees();

}  // namespace callbax
