// Threads of callbax's own: for callbacks that may need all of XLA's, and for loops where XLA has none.
//
// A callback that computes with arrays of the client that calls it needs threads of that client's pool.
// If the callback itself holds one, and others hold the rest, it waits for ever. So its call is handed to
// a helper, and XLA's thread goes back to the pool; what follows in the program runs on the helper.
//
// Guarantees
//  * A task never waits for another: there are as many helpers as tasks that run. Those that have
//    nothing to do are used again.
//  * A helper computes as the thread does that asked (denormals).
#pragma once

#include <functional>

#include "loops.h"

namespace callbax {

// Whether this thread must not be held by a callback that needs the pool: it is one of XLA's.
bool OnPoolThread() noexcept;

// Runs the task on a helper. False if no thread can be started.
bool RunOnHelper(std::function<void()> task);

// Helpers, as many at once as this process has processors, for loops in programs whose platform lends
// handlers no threads.
ThreadPool PoolOfHelpers() noexcept;

}  // namespace callbax
