// What callbax asks of the operating system: threads, huge pages, shared libraries, SIGINT.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace callbax {

// A result of this many bytes is worth the advice.
constexpr int64_t kHugeResult = int64_t{4} << 20;
constexpr size_t kHugePage = size_t{2} << 20;

// Asks for huge pages where the range holds any; fewer faults at first touch.
void AdviseHugePages(void* memory, size_t bytes) noexcept;

// The number of this thread, as Python's threading.get_native_id has it.
int64_t ThreadNumber() noexcept;

struct Symbol {
  std::string name;     // empty if the linker does not know it
  std::string library;  // the file; empty for code in no file, such as a compiler's at run time
};

// Finds the function at an address, and keeps the shared library that holds it loaded for the life of
// the process: a program may call the function after the object that opened the library has gone.
Symbol KeepLibraryOf(void* address);

// Who handles SIGINT: nobody, somebody else alone, or they with HearSigint in front.
enum class SigintHandler { kNone, kOther, kHeard };
SigintHandler HandlerOfSigint() noexcept;

// Has `heard` called after the handler that is installed, and AwaitSigint return. It runs inside a signal
// handler.
void HearSigint(void (*heard)()) noexcept;

// For the one thread that awaits SIGINT: before it starts, and then.
void PrepareToAwaitSigint() noexcept;
void AwaitSigint() noexcept;
// Whether one has come since.
bool SigintCame() noexcept;

// No signal is handled on this thread: they are for the threads that expect them.
void BlockSignals() noexcept;

// Ends the process as an unhandled SIGINT does.
void EndBySigint() noexcept;

}  // namespace callbax
