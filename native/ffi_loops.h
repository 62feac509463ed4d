// Addresses that JAX registers with XLA (see callbax/_runtime.py).
#pragma once

namespace callbax {

void* InstantiateLoopHandler();
void* ExecuteLoopHandler();
void* LoopStateTypeIdPointer();
void* LoopStateTypeInfoPointer();

}  // namespace callbax
