#include "registry.h"

#include <utility>

#include "name_table.h"

namespace callbax {
namespace {

// Never destroyed: executables may be freed after static destructors have run.
NameTable<Slot>& table() {
  static NameTable<Slot>* instance = new NameTable<Slot>;
  return *instance;
}

}  // namespace

Slot::Slot(std::string name, Callable callable, DropReference drop)
    : name_(std::move(name)), callable_(callable), drop_(drop) {}

Slot::~Slot() {
  table().Remove(name_);
  drop_(callable_.target);
  drop_(callable_.function);
  drop_(callable_.keywords);
}

void Slot::SetContext(const std::shared_ptr<void>& context) {
  std::lock_guard<std::mutex> lock(mutex_);
  context_ = context;
}

std::shared_ptr<void> Slot::Context() {
  std::lock_guard<std::mutex> lock(mutex_);
  return context_.lock();
}

SlotPtr FindSlot(const std::string& name) { return table().Find(name); }

SlotPtr AddSlot(const std::string& name, Callable callable, DropReference drop) {
  // Dropped outside of the table's lock, if another has the name: ~Slot takes the lock again.
  const SlotPtr fresh = std::make_shared<Slot>(name, callable, drop);
  return table().Add(name, fresh);
}

size_t LiveSlots() { return table().size(); }

}  // namespace callbax
