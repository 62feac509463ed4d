#include "registry.h"

#include <unordered_map>

namespace callbax {
namespace {

// Never destroyed: executables may be freed after static destructors have run.
struct Table {
  std::mutex mutex;
  std::unordered_map<std::string, std::weak_ptr<Callee>> callees;  // guarded by mutex
};

Table& table() {
  static Table* instance = new Table;
  return *instance;
}

}  // namespace

Callee::~Callee() {
  Table& t = table();
  std::lock_guard<std::mutex> lock(t.mutex);
  auto found = t.callees.find(name_);
  // One that was entered under the same name while this one was dying stays.
  if (found != t.callees.end() && found->second.expired()) t.callees.erase(found);
}

void Callee::SetContext(const Reference& context) {
  std::lock_guard<std::mutex> lock(mutex_);
  context_ = context;
}

Reference Callee::Context() {
  std::lock_guard<std::mutex> lock(mutex_);
  return context_.lock();
}

CalleePtr FindCallee(const std::string& name) {
  Table& t = table();
  std::lock_guard<std::mutex> lock(t.mutex);
  auto found = t.callees.find(name);
  return found == t.callees.end() ? nullptr : found->second.lock();
}

CalleePtr AddCallee(CalleePtr fresh) {
  Table& t = table();
  std::lock_guard<std::mutex> lock(t.mutex);
  std::weak_ptr<Callee>& entry = t.callees[fresh->name()];
  if (CalleePtr living = entry.lock()) return living;
  entry = fresh;
  return fresh;
}

size_t LiveCallees() {
  Table& t = table();
  std::lock_guard<std::mutex> lock(t.mutex);
  return t.callees.size();
}

}  // namespace callbax
