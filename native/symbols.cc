#include "symbols.h"

#include <dlfcn.h>

namespace callbax {

Symbol KeepLibraryOf(void* address) {
  Dl_info info{};
  if (dladdr(address, &info) == 0) return {};
  // The handle is kept for ever. The file is loaded already, so nothing of it runs here.
  dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
  const bool exact = info.dli_saddr == address && info.dli_sname != nullptr;
  return {exact ? info.dli_sname : "", info.dli_fname != nullptr ? info.dli_fname : ""};
}

}  // namespace callbax
