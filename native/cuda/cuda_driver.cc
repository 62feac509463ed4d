#include "cuda_driver.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <utility>

namespace callbax {
namespace {

struct Found {
  CudaDriver driver;
  std::string why;  // it cannot be used; empty: it can
};

// The library stays loaded.
Found Load() {
  Found found;
  const char* path = std::getenv("CALLBAX_LIBCUDA");
  const bool is_set = path != nullptr && *path != '\0';
  void* library = dlopen(is_set ? path : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* error = dlerror();
    found.why = error ? error : "NVIDIA's driver cannot be loaded";
    return found;
  }
  std::string missing;
#define CALLBAX_CUDA_FIND(name, ...)                                                        \
  found.driver.name = reinterpret_cast<decltype(found.driver.name)>(dlsym(library, #name)); \
  if (found.driver.name == nullptr) missing += std::string(missing.empty() ? "" : ", ") + #name;
  CALLBAX_CUDA_FUNCTIONS(CALLBAX_CUDA_FIND)
#undef CALLBAX_CUDA_FIND
  if (!missing.empty()) found.why = "NVIDIA's driver lacks " + missing;
  return found;
}

std::string Describe(const CudaDriver& driver, const char* function, CudaResult result) {
  const char* name = nullptr;
  const char* text = nullptr;
  driver.cuGetErrorName(result, &name);  // if it fails, there is none
  driver.cuGetErrorString(result, &text);
  std::string described = std::string(function) + ": ";
  described += name ? name : "CUDA error " + std::to_string(result);
  return text ? described + " (" + text + ")" : described;
}

}  // namespace

const CudaDriver* FindCudaDriver(std::string* why) {
  static std::atomic<const Found*> usable{nullptr};
  static std::mutex mutex;
  const Found* found = usable.load(std::memory_order_acquire);
  if (found == nullptr) {
    std::lock_guard<std::mutex> lock(mutex);
    found = usable.load(std::memory_order_relaxed);
    if (found == nullptr) {
      Found loaded = Load();
      if (!loaded.why.empty()) {
        if (why != nullptr) *why = loaded.why;
        return nullptr;
      }
      found = new Found(std::move(loaded));
      usable.store(found, std::memory_order_release);
    }
  }
  if (why != nullptr) why->clear();
  return &found->driver;
}

CudaError::CudaError(const CudaDriver& driver, const char* function, CudaResult result)
    : std::runtime_error(Describe(driver, function, result)), result_(result) {}

}  // namespace callbax
