// What the dynamic linker knows about the address of a function.
#pragma once

#include <string>

namespace callbax {

struct Symbol {
  std::string name;     // empty if the linker does not know it
  std::string library;  // the file; empty for code that no file holds, such as a compiler's at run time
};

// Finds the function at an address, and keeps the shared library that holds it loaded for the life of
// the process: a program may call the function after the object that opened the library has gone.
Symbol KeepLibraryOf(void* address);

}  // namespace callbax
