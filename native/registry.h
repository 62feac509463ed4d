// Names in a compiled program -> the Python callables that they stand for.
//
// A Slot is shared by the executables that may call it (their FFI states) and by the Registration
// objects of Python; it dies with the last of them, and the callable with it. The table holds weak
// references only, so it never keeps a callable alive.
//
// Thread safety: every function may be called from any thread; none needs the GIL.
#pragma once

#include <memory>
#include <mutex>
#include <string>

namespace callbax {

// A compiled function of the prototype in callbax/kernel.h. Its target keeps it alive.
struct NativeKernel {
  void* function = nullptr;
  void* user_data = nullptr;
};

// Opaque here: only python-side files look inside.
struct Callable {
  void* target = nullptr;     // the HostCall
  void* function = nullptr;   // the user's function, if its arguments are flat; else null
  void* keywords = nullptr;   // tuple of names of trailing keyword arguments; may be null
  NativeKernel kernel;        // called in place of the function, if there is one
};

using DropReference = void (*)(void* object);

class Slot {
 public:
  Slot(std::string name, Callable callable, DropReference drop);
  ~Slot();
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  const std::string& name() const { return name_; }
  const Callable& callable() const { return callable_; }

  // The contextvars.Context (opaque here) of the newest trace that calls this, as long as a
  // Registration keeps it. Programs take it when they are compiled: each trace has its own.
  void SetContext(const std::shared_ptr<void>& context);
  std::shared_ptr<void> Context();

 private:
  std::string name_;
  Callable callable_;  // owned references
  DropReference drop_;
  std::mutex mutex_;
  std::weak_ptr<void> context_;  // guarded by mutex_
};

using SlotPtr = std::shared_ptr<Slot>;

// The living slot of that name, or null.
SlotPtr FindSlot(const std::string& name);

// Enters a new slot, unless a living one has the name already: then that one is returned, the new
// references are dropped, and the caller must compare targets.
SlotPtr AddSlot(const std::string& name, Callable callable, DropReference drop);

size_t LiveSlots();

}  // namespace callbax
