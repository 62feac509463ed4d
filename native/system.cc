#include "system.h"

#include <csignal>

#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#endif

namespace callbax {
namespace {

sem_t sigints;
struct sigaction handler_before {};
void (*sigint_heard)() = nullptr;

// Async-signal-safe.
void HandleSigint(int number, siginfo_t* info, void* context) {
  if (handler_before.sa_flags & SA_SIGINFO) {
    handler_before.sa_sigaction(number, info, context);
  } else if (handler_before.sa_handler != SIG_DFL && handler_before.sa_handler != SIG_IGN) {
    handler_before.sa_handler(number);
  }
  sigint_heard();
  sem_post(&sigints);
}

}  // namespace

void AdviseHugePages(void* memory, size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto start = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = (start + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (start + bytes) / kHugePage * kHugePage;
  // A hint: a kernel without huge pages refuses it, which changes nothing but the speed.
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)memory;
  (void)bytes;
#endif
}

int64_t ThreadNumber() noexcept {
#if defined(__linux__)
  thread_local const int64_t number = syscall(SYS_gettid);
#else
  thread_local const int64_t number = [] {
    uint64_t found = 0;
    pthread_threadid_np(nullptr, &found);
    return static_cast<int64_t>(found);
  }();
#endif
  return number;
}

Symbol KeepLibraryOf(void* address) {
  Dl_info info{};
  if (dladdr(address, &info) == 0) return {};
  // The handle is kept for ever. The file is loaded already, so nothing of it runs here.
  dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
  const bool exact = info.dli_saddr == address && info.dli_sname != nullptr;
  return {exact ? info.dli_sname : "", info.dli_fname != nullptr ? info.dli_fname : ""};
}

SigintHandler HandlerOfSigint() noexcept {
  struct sigaction current {};
  if (sigaction(SIGINT, nullptr, &current) != 0) return SigintHandler::kNone;
  if (current.sa_flags & SA_SIGINFO) {
    return current.sa_sigaction == HandleSigint ? SigintHandler::kHeard : SigintHandler::kOther;
  }
  const bool handled = current.sa_handler != SIG_DFL && current.sa_handler != SIG_IGN;
  return handled ? SigintHandler::kOther : SigintHandler::kNone;
}

void HearSigint(void (*heard)()) noexcept {
  sigint_heard = heard;
  if (sigaction(SIGINT, nullptr, &handler_before) != 0) return;
  struct sigaction chained = handler_before;
  chained.sa_flags |= SA_SIGINFO;
  chained.sa_sigaction = HandleSigint;
  sigaction(SIGINT, &chained, nullptr);
}

void PrepareToAwaitSigint() noexcept { sem_init(&sigints, 0, 0); }

void AwaitSigint() noexcept {
  while (sem_wait(&sigints) != 0) {
  }
  while (sem_trywait(&sigints) == 0) {
  }
}

bool SigintCame() noexcept {
  int count = 0;
  sem_getvalue(&sigints, &count);
  return count > 0;
}

void BlockSignals() noexcept {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

void EndBySigint() noexcept {
  struct sigaction original {};
  original.sa_handler = SIG_DFL;
  sigaction(SIGINT, &original, nullptr);
  kill(getpid(), SIGINT);
}

}  // namespace callbax
