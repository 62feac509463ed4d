// Kernels: compiled functions that get whole arrays, by the prototype of callbax/kernel.h.
//
// Guarantee: nothing here touches Python, so a kernel runs whoever holds the GIL.
#pragma once

#include <string>
#include <vector>

#include "call.h"

namespace callbax {

struct KernelFailure {
  int code = 0;  // what the kernel returned
  std::string message;
  FailedCall call;
};

// Calls the kernel of the site's slot once for each lane. False if it failed, with the reason.
bool RunKernel(const CallSite& site, const std::vector<Buffer>& operands,
               const std::vector<Buffer>& results, KernelFailure* failure);

}  // namespace callbax
