/* The C prototype of kernels: functions that callbax.native(..., kernel=True) calls with whole arrays.
 *
 *     #include <callbax/kernel.h>       // cc -I$(python -c "import callbax; print(callbax.get_include())")
 *
 *     int scale(const callbax_call* call) {
 *       const callbax_array* x = &call->arguments[0];
 *       if (x->dtype != CALLBAX_FLOAT32) return callbax_fail(call, "x must be float32");
 *       const float* in = (const float*)x->data;
 *       float* out = (float*)call->results[0].data;
 *       for (int64_t i = 0; i < x->size; ++i) out[i] = 2 * in[i];
 *       return 0;
 *     }
 *
 * C99 and C++11. What a kernel may rely on, and what it must keep:
 *
 *  - Arrays are contiguous in row-major order and aligned to their dtype. Arguments are read only;
 *    results are not initialised, and every element has to be written.
 *  - Nothing that `call` points to outlives the call, except what `user_data` points to.
 *  - A kernel may run on any thread, on several at once, and without Python's GIL.
 *  - It returns 0, or any other code for an error; `callbax_fail` adds a message to it. A kernel in
 *    C++ may throw a std::exception instead.
 */
#ifndef CALLBAX_KERNEL_H
#define CALLBAX_KERNEL_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Types of elements. They have one byte or more; complex numbers are pairs (real, imaginary). */
enum {
  CALLBAX_BOOL = 1, /* one byte, 0 or 1 */
  CALLBAX_INT8 = 2,
  CALLBAX_INT16 = 3,
  CALLBAX_INT32 = 4,
  CALLBAX_INT64 = 5,
  CALLBAX_UINT8 = 6,
  CALLBAX_UINT16 = 7,
  CALLBAX_UINT32 = 8,
  CALLBAX_UINT64 = 9,
  CALLBAX_FLOAT16 = 10,
  CALLBAX_FLOAT32 = 11,
  CALLBAX_FLOAT64 = 12,
  CALLBAX_COMPLEX64 = 15,
  CALLBAX_BFLOAT16 = 16,
  CALLBAX_COMPLEX128 = 18
};

typedef struct callbax_array {
  void* data;
  const int64_t* shape; /* `rank` sizes */
  int64_t size;         /* number of elements: the product of the shape */
  int32_t rank;
  int32_t dtype; /* CALLBAX_FLOAT32, ... */
} callbax_array;

/* One call. Later versions of callbax may append members; they say so by `struct_size`. */
typedef struct callbax_call {
  size_t struct_size; /* sizeof(callbax_call) as callbax was built */
  int32_t argument_count;
  int32_t result_count;
  const callbax_array* arguments;
  const callbax_array* results;
  void* user_data;
  char* message;       /* for the text of an error, zero-terminated; empty at first */
  size_t message_size; /* room for it */
} callbax_call;

typedef int (*callbax_kernel)(const callbax_call* call);

/* Sets the message of an error and returns 1: `return callbax_fail(call, "...");` */
static inline int callbax_fail(const callbax_call* call, const char* message) {
  snprintf(call->message, call->message_size, "%s", message);
  return 1;
}

#ifdef __cplusplus
}
#endif

#endif
