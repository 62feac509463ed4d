// Programs for CPU call the handler for GPUs: a frame of theirs is shown to it as one of a GPU's.
//
// Operands are copied into the memory of a fake device, results out of it. Each CPU device has a context
// and a stream.
#include <cstring>
#include <vector>

#include "fake_cuda.h"
#include "xla/ffi/api/c_api.h"

namespace {

thread_local CUstream_st* stream = nullptr;

XLA_FFI_Error* GetStream(XLA_FFI_Stream_Get_Args* args) {
  args->stream = stream;
  return nullptr;
}

int DeviceOf(XLA_FFI_CallFrame* frame) {
  XLA_FFI_DeviceOrdinal_Get_Args args{XLA_FFI_DeviceOrdinal_Get_Args_STRUCT_SIZE, nullptr,
                                      frame->ctx, 0};
  if (frame->api->XLA_FFI_DeviceOrdinal_Get(&args) != nullptr)
    fake::Die("XLA does not know the device");
  return args.device_ordinal;
}

size_t Bits(XLA_FFI_DataType dtype) {
  switch (dtype) {
    case XLA_FFI_DataType_TOKEN:
    case XLA_FFI_DataType_INVALID: return 0;
    case XLA_FFI_DataType_S1:
    case XLA_FFI_DataType_U1: return 1;
    case XLA_FFI_DataType_S2:
    case XLA_FFI_DataType_U2: return 2;
    case XLA_FFI_DataType_S4:
    case XLA_FFI_DataType_U4:
    case XLA_FFI_DataType_F4E2M1FN: return 4;
    case XLA_FFI_DataType_S16:
    case XLA_FFI_DataType_U16:
    case XLA_FFI_DataType_F16:
    case XLA_FFI_DataType_BF16: return 16;
    case XLA_FFI_DataType_S32:
    case XLA_FFI_DataType_U32:
    case XLA_FFI_DataType_F32: return 32;
    case XLA_FFI_DataType_S64:
    case XLA_FFI_DataType_U64:
    case XLA_FFI_DataType_F64:
    case XLA_FFI_DataType_C64: return 64;
    case XLA_FFI_DataType_C128: return 128;
    default: return 8;
  }
}

// The buffers of a frame in the memory of a device.
struct OnDevice {
  OnDevice(void** buffers, int64_t size) {
    std::lock_guard<std::mutex> lock(fake::world().mutex);
    for (int64_t i = 0; i < size; ++i) {
      const auto* buffer = static_cast<XLA_FFI_Buffer*>(buffers[i]);
      size_t count = 1;
      for (int64_t k = 0; k < buffer->rank; ++k) count *= static_cast<size_t>(buffer->dims[k]);
      hosts.push_back(buffer->data);
      bytes.push_back((count * Bits(buffer->dtype) + 7) / 8);
      copies.push_back(*buffer);
      copies.back().data = reinterpret_cast<void*>(fake::AllocateDevice(bytes.back()));
      if (bytes.back() > 0) std::memcpy(Alias(i), hosts.back(), bytes.back());
    }
    for (XLA_FFI_Buffer& copy : copies) pointers.push_back(&copy);
  }
  char* Alias(size_t i) {
    return fake::Alias(reinterpret_cast<uintptr_t>(copies[i].data), bytes[i]);
  }
  void BringBack() {
    std::lock_guard<std::mutex> lock(fake::world().mutex);
    for (size_t i = 0; i < copies.size(); ++i) {
      if (bytes[i] > 0) std::memcpy(hosts[i], Alias(i), bytes[i]);
    }
  }
  ~OnDevice() {
    std::lock_guard<std::mutex> lock(fake::world().mutex);
    for (const XLA_FFI_Buffer& copy : copies) {
      fake::FreeDevice(reinterpret_cast<uintptr_t>(copy.data));
    }
  }

  std::vector<void*> hosts;
  std::vector<size_t> bytes;
  std::vector<XLA_FFI_Buffer> copies;
  std::vector<void*> pointers;
};

XLA_FFI_Error* CallOnDevice(XLA_FFI_Handler* handler, XLA_FFI_CallFrame* frame) {
  XLA_FFI_Api api = *frame->api;
  api.XLA_FFI_Stream_Get = GetStream;
  OnDevice operands(frame->args.args, frame->args.size);
  OnDevice results(frame->rets.rets, frame->rets.size);
  XLA_FFI_CallFrame shown = *frame;
  shown.api = &api;
  shown.args.args = operands.pointers.data();
  shown.rets.rets = results.pointers.data();
  XLA_FFI_Error* const error = handler(&shown);
  fake::AwaitCopies(stream);
  if (error == nullptr) results.BringBack();
  return error;
}

XLA_FFI_Error* Execute(XLA_FFI_Handler* handler, XLA_FFI_CallFrame* frame) {
  if (frame->extension_start != nullptr) return handler(frame);  // a question about the handler
  CUstream_st* const outer_stream = stream;                      // this may be inside of a callback
  stream = fake::StreamOf(DeviceOf(frame));
  CUctx_st* const outer = fake::MakeCurrent(stream->context);
  XLA_FFI_Error* const error = CallOnDevice(handler, frame);
  fake::MakeCurrent(outer);
  stream = outer_stream;
  return error;
}

// A handler is an address and nothing else, so each has a function of its own.
constexpr int kHandlers = 4;
XLA_FFI_Handler* handlers[kHandlers];

template <int i>
XLA_FFI_Error* ExecuteOf(XLA_FFI_CallFrame* frame) {
  return Execute(handlers[i], frame);
}
XLA_FFI_Handler* const wrappers[kHandlers] = {ExecuteOf<0>, ExecuteOf<1>, ExecuteOf<2>,
                                              ExecuteOf<3>};

}  // namespace

extern "C" {

// What calls the handler so.
void* fake_wrap(void* handler) {
  static int wrapped = 0;
  if (wrapped == kHandlers) fake::Die("too many handlers");
  handlers[wrapped] = reinterpret_cast<XLA_FFI_Handler*>(handler);
  return reinterpret_cast<void*>(wrappers[wrapped++]);
}
}
