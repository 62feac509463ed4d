// Addresses that JAX registers with XLA (see callbax/_runtime.py).
#pragma once

namespace callbax {

void* InstantiateHandler();
void* ExecuteHandler();
void* StateTypeIdPointer();
void* StateTypeInfoPointer();

}  // namespace callbax
