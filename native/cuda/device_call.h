// Calls whose function gets its arrays in a GPU's memory, and computes on XLA's stream.
//
//   the program so far -> what the function puts on the stream -> the rest of the program
//
// Nothing is copied or waited for: the function is called while the program is being put on the stream.
// What it puts on streams of its own comes between, too, if it has handed their numbers to __dlpack__.
#pragma once

#include <memory>

#include "call.h"
#include "cuda_driver.h"

namespace callbax {

// For one call, on the thread that calls, with the stream's context current.
std::unique_ptr<Device> NewCudaDevice(const CudaDriver& driver, CudaStream stream, int ordinal);

}  // namespace callbax
