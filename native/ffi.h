// What every XLA FFI handler needs: call frames decoded, outcomes encoded, the state of an executable.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "call.h"
#include "xla/ffi/api/c_api.h"

namespace callbax {

inline XLA_FFI_Error* MakeError(const XLA_FFI_Api* api, XLA_FFI_Error_Code code,
                                const std::string& message) {
  XLA_FFI_Error_Create_Args args{XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, message.c_str(),
                                 code};
  return api->XLA_FFI_Error_Create(&args);
}

// The error of a failed call; null if it has not failed.
inline XLA_FFI_Error* Encode(const XLA_FFI_Api* api, const Outcome& outcome) {
  return outcome.ok ? nullptr : MakeError(api, XLA_FFI_Error_Code_INTERNAL, outcome.message);
}

// Drops an error that nobody is told of. Whether there was one.
inline bool Ignore(const XLA_FFI_Api* api, XLA_FFI_Error* error) {
  if (error == nullptr) return false;
  XLA_FFI_Error_Destroy_Args args{XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
  api->XLA_FFI_Error_Destroy(&args);
  return true;
}

inline Buffer ReadBuffer(const void* pointer) {
  const auto* buffer = static_cast<const XLA_FFI_Buffer*>(pointer);
  return Buffer{static_cast<int>(buffer->dtype), buffer->data, buffer->rank, buffer->dims};
}

// The operands or results of a frame. Tokens carry no data: they order calls, and no callee sees them.
inline std::vector<Buffer> ReadBuffers(void* const* pointers, int64_t size) {
  std::vector<Buffer> buffers;
  buffers.reserve(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) {
    const Buffer buffer = ReadBuffer(pointers[i]);
    if (buffer.dtype != XLA_FFI_DataType_TOKEN) buffers.push_back(buffer);
  }
  return buffers;
}

// Without the last dimension, which a program says is one more than the callee's. It may say it of any.
inline void Narrow(Buffer* buffer) {
  if (buffer->rank > 0) --buffer->rank;
}

// The run of the program; XLA may not know it.
inline int64_t RunId(XLA_FFI_CallFrame* frame) {
  XLA_FFI_RunId_Get_Args args{XLA_FFI_RunId_Get_Args_STRUCT_SIZE, nullptr, frame->ctx, 0};
  return Ignore(frame->api, frame->api->XLA_FFI_RunId_Get(&args)) ? kNoRun : args.run_id;
}

// What a frame tells of one call of a callback.
struct CallbackFrame {
  CallbackFrame(XLA_FFI_CallFrame* frame, const CallSite& site)
      : operands(ReadBuffers(frame->args.args, frame->args.size)) {
    if (site.widened && !operands.empty()) Narrow(&operands[0]);
    if (!site.no_results) results = ReadBuffers(frame->rets.rets, frame->rets.size);
    if (site.shared_run) run_id = RunId(frame);
  }

  std::vector<Buffer> operands;
  std::vector<Buffer> results;
  int64_t run_id = 0;
};

// What a frame tells of one call of a loop, buffer by buffer: most calls are short.
struct LoopFrame {
  LoopFrame(XLA_FFI_CallFrame* of, bool is_widened)
      : frame(of),
        operands(static_cast<size_t>(of->args.size)),
        results(static_cast<size_t>(of->rets.size)),
        widened(is_widened) {}

  // Of the operands, and then the results.
  Buffer operator()(size_t i) const {
    Buffer read = ReadBuffer(i < operands ? frame->args.args[i] : frame->rets.rets[i - operands]);
    if (i == 0 && widened && operands > 0) Narrow(&read);
    return read;
  }

  XLA_FFI_CallFrame* const frame;
  const size_t operands;
  const size_t results;
  const bool widened;
};

// Ordered calls come after those of before that are detached from their programs.
inline void KeepOrder(XLA_FFI_CallFrame* frame) {
  const auto wait = await_detached.load(std::memory_order_acquire);
  if (wait == nullptr) return;
  for (int64_t i = 0; i < frame->args.size; ++i) {
    if (ReadBuffer(frame->args.args[i]).dtype == XLA_FFI_DataType_TOKEN) return wait();
  }
}

// What a fence does.
inline void Pass(const std::vector<Buffer>& results) {
  for (const Buffer& result : results) {
    if (result.dtype != XLA_FFI_DataType_PRED) continue;
    std::memset(result.data, 1, static_cast<size_t>(CountElements(result.rank, result.dims)));
  }
}

// XLA asks each handler about itself before it uses it.
inline bool AnswerMetadata(XLA_FFI_CallFrame* frame, XLA_FFI_TypeId* state_type) {
  auto* extension = frame->extension_start;  // its type has another name from jaxlib 0.11 on
  if (extension == nullptr || extension->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata* metadata = reinterpret_cast<XLA_FFI_Metadata_Extension*>(extension)->metadata;
  metadata->api_version = XLA_FFI_Api_Version{XLA_FFI_Api_Version_STRUCT_SIZE, nullptr,
                                              XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  metadata->traits = 0;
  metadata->state_type_id = *state_type;
  return true;
}

// What XLA keeps for one call in one executable: left by instantiate, found by execute. A call that is
// detached from its program may share it, and outlive the executable.
template <class Site>
class StateOf {
 public:
  // XLA would give an id of its own on registration, but jaxlib registers queued handlers before
  // queued types, and a handler must state its id by then. So, as jaxlib does, the address is the id.
  static XLA_FFI_TypeId* Id() { return &id_; }

  static XLA_FFI_TypeInfo* Info() {
    static XLA_FFI_TypeInfo info{XLA_FFI_TypeInfo_STRUCT_SIZE, nullptr,
                                 [](void* state) { delete static_cast<Shared*>(state); }};
    return &info;
  }

  static XLA_FFI_Error* Set(XLA_FFI_CallFrame* frame, std::unique_ptr<Site> site) {
    auto shared = std::make_unique<Shared>(std::move(site));
    XLA_FFI_State_Set_Args args{XLA_FFI_State_Set_Args_STRUCT_SIZE, nullptr, frame->ctx,
                                XLA_FFI_ExecutionStage_INSTANTIATE, Id(),    shared.get()};
    XLA_FFI_Error* error = frame->api->XLA_FFI_State_Set(&args);
    if (error == nullptr) shared.release();  // XLA owns it now
    return error;
  }

  static XLA_FFI_Error* Get(XLA_FFI_CallFrame* frame, Site** site) {
    XLA_FFI_State_Get_Args args{XLA_FFI_State_Get_Args_STRUCT_SIZE, nullptr, frame->ctx,
                                XLA_FFI_ExecutionStage_INSTANTIATE, Id(),    nullptr};
    XLA_FFI_Error* error = frame->api->XLA_FFI_State_Get(&args);
    *site = error == nullptr ? static_cast<Shared*>(args.state)->get() : nullptr;
    return error;
  }

 private:
  using Shared = std::shared_ptr<Site>;
  struct TypeId : XLA_FFI_TypeId {
    TypeId() { type_id = reinterpret_cast<int64_t>(this); }
  };
  inline static TypeId id_;
};

// Attributes of a call by name; what is absent keeps its default.
class Attributes {
 public:
  explicit Attributes(const XLA_FFI_Attrs& attrs) : attrs_(attrs) {}

  void Read(const char* name, std::string* out) const {
    const int64_t i = Find(name, XLA_FFI_AttrType_STRING);
    if (i < 0) return;
    const auto* span = static_cast<const XLA_FFI_ByteSpan*>(attrs_.attrs[i]);
    out->assign(span->ptr, span->len);
  }
  void Read(const char* name, bool* out) const {
    const int64_t i = Find(name, XLA_FFI_AttrType_SCALAR);
    if (i < 0) return;
    const auto* scalar = static_cast<const XLA_FFI_Scalar*>(attrs_.attrs[i]);
    if (scalar->dtype == XLA_FFI_DataType_PRED) std::memcpy(out, scalar->value, sizeof *out);
  }
  void Read(const char* name, std::vector<int64_t>* out) const {
    const int64_t i = Find(name, XLA_FFI_AttrType_ARRAY);
    if (i < 0) return;
    const auto* array = static_cast<const XLA_FFI_Array*>(attrs_.attrs[i]);
    if (array->dtype != XLA_FFI_DataType_S64) return;
    out->resize(array->size);
    std::memcpy(out->data(), array->data, array->size * sizeof(int64_t));
  }

 private:
  int64_t Find(const char* name, XLA_FFI_AttrType type) const {
    for (int64_t i = 0; i < attrs_.size; ++i) {
      const XLA_FFI_ByteSpan* key = attrs_.names[i];
      if (key->len == std::strlen(name) && std::memcmp(key->ptr, name, key->len) == 0) {
        return attrs_.types[i] == type ? i : -1;
      }
    }
    return -1;
  }

  const XLA_FFI_Attrs& attrs_;
};

// The two stages of one kind of call. Instantiate runs once for each call in an executable, on a compile
// thread: it reads the attributes and looks the callee up by its name, and leaves the site for Execute,
// which runs on any XLA thread, several at once.
//
// Handler has `Site`, what messages call its callee (`kCallee`), and `Execute(frame, site)`.
template <class Handler>
struct Stages {
  using Site = typename Handler::Site;
  using State = StateOf<Site>;

  static XLA_FFI_Error* Instantiate(XLA_FFI_CallFrame* frame) {
    if (AnswerMetadata(frame, State::Id())) return nullptr;
    std::string why;
    auto site = NewSite<Site>(Attributes(frame->attrs), &why);
    if (site) return State::Set(frame, std::move(site));
    return MakeError(frame->api, XLA_FFI_Error_Code_NOT_FOUND,
                     std::string("callbax: this program calls ") + Handler::kCallee + " " + why);
  }

  static XLA_FFI_Error* Execute(XLA_FFI_CallFrame* frame) {
    if (AnswerMetadata(frame, State::Id())) return nullptr;
    Site* site = nullptr;
    if (XLA_FFI_Error* error = State::Get(frame, &site)) return error;
    XLA_FFI_Error* error = Handler::Execute(frame, *site);
    if (error != nullptr) last_site = 0;
    return error;
  }

  static HandlerAddresses Addresses() {
    return {reinterpret_cast<void*>(Instantiate), reinterpret_cast<void*>(Execute), State::Id(),
            State::Info()};
  }
};

}  // namespace callbax
