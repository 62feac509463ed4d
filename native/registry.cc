#include "registry.h"

#include <mutex>
#include <unordered_map>
#include <utility>

namespace callbax {
namespace {

// Never destroyed: executables may be freed after static destructors have run.
struct Table {
  std::mutex mutex;
  std::unordered_map<std::string, std::weak_ptr<Slot>> slots;  // guarded by mutex
};

Table& table() {
  static Table* instance = new Table;
  return *instance;
}

}  // namespace

Slot::Slot(std::string name, Callable callable, DropReference drop)
    : name_(std::move(name)), callable_(callable), drop_(drop) {}

Slot::~Slot() {
  {
    Table& t = table();
    std::lock_guard<std::mutex> lock(t.mutex);
    auto found = t.slots.find(name_);
    // A slot entered under the same name while this one was dying must stay.
    if (found != t.slots.end() && found->second.expired()) t.slots.erase(found);
  }
  drop_(callable_.target);
  drop_(callable_.function);
  drop_(callable_.keywords);
}

SlotPtr FindSlot(const std::string& name) {
  Table& t = table();
  std::lock_guard<std::mutex> lock(t.mutex);
  auto found = t.slots.find(name);
  return found == t.slots.end() ? nullptr : found->second.lock();
}

SlotPtr AddSlot(const std::string& name, Callable callable, DropReference drop) {
  // Made before the lock is taken: were it dropped inside, ~Slot would take the lock again.
  SlotPtr fresh = std::make_shared<Slot>(name, callable, drop);
  SlotPtr living;
  Table& t = table();
  std::lock_guard<std::mutex> lock(t.mutex);
  std::weak_ptr<Slot>& entry = t.slots[name];
  living = entry.lock();
  if (living) return living;
  entry = fresh;
  return fresh;
}

size_t LiveSlots() {
  Table& t = table();
  std::lock_guard<std::mutex> lock(t.mutex);
  return t.slots.size();
}

}  // namespace callbax
