#include "system.h"

#include <csignal>

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#endif
// macOS has no unnamed semaphores. A pipe is what else a signal handler may use, but a program can
// close it, which a semaphore is safe from.
#if defined(__linux__) && !defined(CALLBAX_WITHOUT_SEMAPHORES)
#define CALLBAX_HAS_SEMAPHORES
#include <semaphore.h>
#else
#include <cerrno>

#include <fcntl.h>
#include <poll.h>
#endif

namespace callbax {
namespace {

// What has come since it was awaited last. Post is async-signal-safe.
#if defined(CALLBAX_HAS_SEMAPHORES)
class Arrivals {
 public:
  void Begin() { sem_init(&semaphore_, 0, 0); }
  void Post() { sem_post(&semaphore_); }
  void Await() {
    while (sem_wait(&semaphore_) != 0) {
    }
    while (sem_trywait(&semaphore_) == 0) {
    }
  }
  bool Any() {
    int count = 0;
    sem_getvalue(&semaphore_, &count);
    return count > 0;
  }

 private:
  sem_t semaphore_;
};
#else
class Arrivals {
 public:
  void Begin() {
    for (int& end : ends_) {
      if (end >= 0) close(end);  // a forked child's copies
      end = -1;
    }
    if (pipe(ends_) != 0) return;
    for (int end : ends_) {
      fcntl(end, F_SETFD, FD_CLOEXEC);
      fcntl(end, F_SETFL, O_NONBLOCK);
    }
  }

  void Post() {
    const int saved = errno;
    // A pipe that is full has arrivals enough.
    if (write(ends_[1], "", 1) < 0) errno = saved;
  }

  void Await() {
    while (!Poll(-1)) {
    }
    char taken[64];
    while (read(ends_[0], taken, sizeof(taken)) > 0) {
    }
  }

  bool Any() { return ends_[0] >= 0 && Poll(0); }

 private:
  bool Poll(int timeout) {
    pollfd reading{ends_[0], POLLIN, 0};
    const bool ready = poll(&reading, 1, timeout) > 0;
    if (ready && (reading.revents & POLLIN) == 0) {  // it is closed: nothing arrives again
      if (timeout != 0) {
        for (;;) pause();
      }
      return false;
    }
    return ready;
  }

  int ends_[2] = {-1, -1};
};
#endif

Arrivals sigints;
struct sigaction handler_before{};
void (*sigint_heard)() = nullptr;

// Async-signal-safe.
void HandleSigint(int number, siginfo_t* info, void* context) {
  if (handler_before.sa_flags & SA_SIGINFO) {
    handler_before.sa_sigaction(number, info, context);
  } else if (handler_before.sa_handler != SIG_DFL && handler_before.sa_handler != SIG_IGN) {
    handler_before.sa_handler(number);
  }
  sigint_heard();
  sigints.Post();
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
  struct sigaction current{};
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

void PrepareToAwaitSigint() noexcept { sigints.Begin(); }

void AwaitSigint() noexcept { sigints.Await(); }

bool SigintCame() noexcept { return sigints.Any(); }

void BlockSignals() noexcept {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

void EndBySigint() noexcept {
  struct sigaction original{};
  original.sa_handler = SIG_DFL;
  sigaction(SIGINT, &original, nullptr);
  kill(getpid(), SIGINT);
}

}  // namespace callbax
