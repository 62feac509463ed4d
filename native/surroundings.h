// What surrounds a callback: on which client JAX works for it, and in which settings it runs.
//
// Levels. XLA's CPU client has 32 places for programs in flight, and a pool of threads. A callback holds a
// place, and perhaps a thread; JAX work that it starts needs its own. If all places of a client were held
// by callbacks that wait for places of that client, they would wait for ever. So there is a client for
// each level: level 0 is that of the program's user, and JAX work on a thread of level k goes to client k.
//  * A thread of XLA's pool that belongs to client k has level k + 1 for the callbacks that its programs
//    call.
//  * Another thread keeps its level while few callbacks are in flight (kKeepFew in the process, and as
//    many more on each level): then the thread's own client has places enough. Otherwise the callback
//    runs one level deeper.
//  * A callback of a program for another platform runs one level deeper, so that its JAX work is on CPU:
//    the other platform may be waiting for it.
// So of the 32 places of a client at most 2 * kKeepFew are held by programs that may wait for a place of
// the same client; all others wait for deeper clients only, of which the deepest waits for none. By
// induction from there each level gets on. A level that is too deep does no harm.
// Arrays that are committed to a shallower client are worked on there. Callbacks that visibly hold such
// ones are counted (_runtime/nested.py).
//
// Settings. On XLA's threads a callback runs in the contextvars and the JAX settings of the trace of its
// program. A thread stays in those of its last callback, so that calls with the same ones cost nothing. A
// context can be entered by one thread at a time, so each thread enters a copy of its own. A callback
// inside another on the same thread is left in what it finds: that is its caller's.
//
// Tracing. threading.settrace and setprofile reach threads when they start. XLA's look again when callbax
// has seen that they were called.
#pragma once

#include "call.h"
#include "python.h"

namespace callbax {

// Puts this thread into what a call needs, and back. Needs the GIL.
class Surroundings {
 public:
  // `others`: the calls that were in flight before this one. `outermost`: the thread is XLA's, and runs no
  // other callback.
  Surroundings(int others, bool outermost, const CallSite& site)
      : entered_((outermost ? IsIn(site.settings) : others < kKeepFew && !site.elsewhere) ||
                 Enter(outermost, site)) {}
  ~Surroundings() {
    if (keeps_ || deeper_ != nullptr) Leave();
  }
  Surroundings(const Surroundings&) = delete;
  Surroundings& operator=(const Surroundings&) = delete;

  // False with an error set if it could not be done.
  bool entered() const { return entered_; }

 private:
  static constexpr int kKeepFew = 4;

  static bool IsIn(const SettingsPtr& settings) noexcept;
  bool Enter(bool outermost, const CallSite& site);
  void Leave() noexcept;

  bool keeps_ = false;          // counted among those that keep their level
  PyObject* deeper_ = nullptr;  // what the hook that went deeper wants back; owned
  bool entered_;                // last: made by the others' means
};

// Lets XLA's threads look again at what traces and profiles Python's threads.
void RenewTracing() noexcept;

// The level of this thread. Needs the GIL, as its change does.
int Level() noexcept;
int SetLevel(int level) noexcept;  // returns the level before

}  // namespace callbax
