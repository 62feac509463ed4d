// Names in compiled programs -> living objects. Holds weak references only: it keeps nothing alive.
//
// Thread safety: every function may be called from any thread; none needs the GIL.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

namespace callbax {

template <class Value>
class NameTable {
 public:
  // The living value of that name, or null.
  std::shared_ptr<Value> Find(const std::string& name) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = values_.find(name);
    return found == values_.end() ? nullptr : found->second.lock();
  }

  // Enters `fresh`, unless a living value has the name already: then that one is returned.
  std::shared_ptr<Value> Add(const std::string& name, const std::shared_ptr<Value>& fresh) {
    std::shared_ptr<Value> living;
    std::lock_guard<std::mutex> lock(mutex_);
    std::weak_ptr<Value>& entry = values_[name];
    living = entry.lock();
    if (living) return living;
    entry = fresh;
    return fresh;
  }

  // For the destructor of a value. One entered under the same name while it was dying stays.
  void Remove(const std::string& name) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = values_.find(name);
    if (found != values_.end() && found->second.expired()) values_.erase(found);
  }

  size_t size() {
    std::lock_guard<std::mutex> lock(mutex_);
    return values_.size();
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::string, std::weak_ptr<Value>> values_;  // guarded by mutex_
};

}  // namespace callbax
