// XLA FFI handlers for CPU: decode a call frame, hand it to Invoke, encode the outcome.
//
// Instantiate runs once per call in an executable, on a compile thread; it looks the callback up by
// name and leaves a CallSite as the state that XLA keeps until the executable dies. Execute runs on
// any XLA thread, several at once.
#include "ffi_cpu.h"

#include <cstring>
#include <string>

#include "call.h"
#include "xla/ffi/api/c_api.h"

namespace callbax {
namespace {

// XLA would give an id of its own on registration, but jaxlib registers queued handlers before
// queued types, and a handler must state its id by then. So, as jaxlib does, the address is the id.
XLA_FFI_TypeId* StateTypeId() {
  static XLA_FFI_TypeId id = [] {
    XLA_FFI_TypeId self;
    self.type_id = reinterpret_cast<int64_t>(&id);
    return self;
  }();
  return &id;
}

void DeleteCallSite(void* state) { delete static_cast<CallSite*>(state); }

XLA_FFI_TypeInfo* StateTypeInfo() {
  static XLA_FFI_TypeInfo info{XLA_FFI_TypeInfo_STRUCT_SIZE, nullptr, DeleteCallSite};
  return &info;
}

XLA_FFI_Error* MakeError(const XLA_FFI_Api* api, XLA_FFI_Error_Code code,
                         const std::string& message) {
  XLA_FFI_Error_Create_Args args{XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, message.c_str(),
                                 code};
  return api->XLA_FFI_Error_Create(&args);
}

// XLA asks each handler about itself before it uses it.
bool AnswerMetadata(XLA_FFI_CallFrame* frame) {
  XLA_FFI_Extension_Base* extension = frame->extension_start;
  if (extension == nullptr || extension->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata* metadata = reinterpret_cast<XLA_FFI_Metadata_Extension*>(extension)->metadata;
  metadata->api_version = XLA_FFI_Api_Version{XLA_FFI_Api_Version_STRUCT_SIZE, nullptr,
                                              XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  metadata->traits = 0;
  metadata->state_type_id = *StateTypeId();
  return true;
}

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

XLA_FFI_Error* Instantiate(XLA_FFI_CallFrame* frame) {
  if (AnswerMetadata(frame)) return nullptr;
  auto site = std::make_unique<CallSite>();
  std::string name;
  const Attributes attributes(frame->attrs);
  attributes.Read("callback", &name);
  attributes.Read("flavour", &site->flavour);
  attributes.Read("canonicalize", &site->canonicalize);
  attributes.Read("shared_run", &site->shared_run);
  attributes.Read("no_results", &site->no_results);
  attributes.Read("views", &site->views);
  attributes.Read("out", &site->out);
  attributes.Read("lanes", &site->lanes.sizes);
  attributes.Read("operand_lanes", &site->lanes.operand_axes);
  site->slot = ResolveSlot(name);
  if (!site->slot) {
    return MakeError(frame->api, XLA_FFI_Error_Code_NOT_FOUND,
                     "callbax: this program calls the host function '" + name +
                         "', which this process does not have. A function at the top level of an "
                         "importable module is found by its name; any other exists only in the "
                         "process that traced the program.");
  }
  XLA_FFI_State_Set_Args args{XLA_FFI_State_Set_Args_STRUCT_SIZE, nullptr,        frame->ctx,
                              XLA_FFI_ExecutionStage_INSTANTIATE, StateTypeId(), site.get()};
  XLA_FFI_Error* error = frame->api->XLA_FFI_State_Set(&args);
  if (error == nullptr) site.release();  // XLA owns it now
  return error;
}

// Tokens carry no data: they order calls, and the callback does not see them.
void CollectBuffers(void* const* pointers, int64_t size, std::vector<Buffer>* out) {
  out->clear();
  for (int64_t i = 0; i < size; ++i) {
    const auto* buffer = static_cast<const XLA_FFI_Buffer*>(pointers[i]);
    if (buffer->dtype == XLA_FFI_DataType_TOKEN) continue;
    out->push_back(Buffer{static_cast<int>(buffer->dtype), buffer->data, buffer->rank, buffer->dims});
  }
}

int64_t RunId(XLA_FFI_CallFrame* frame) {
  XLA_FFI_RunId_Get_Args args{XLA_FFI_RunId_Get_Args_STRUCT_SIZE, nullptr, frame->ctx, 0};
  XLA_FFI_Error* error = frame->api->XLA_FFI_RunId_Get(&args);
  if (error == nullptr) return args.run_id;
  XLA_FFI_Error_Destroy_Args destroy{XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
  frame->api->XLA_FFI_Error_Destroy(&destroy);
  return -1;
}

XLA_FFI_Error* Execute(XLA_FFI_CallFrame* frame) {
  if (AnswerMetadata(frame)) return nullptr;
  XLA_FFI_State_Get_Args args{XLA_FFI_State_Get_Args_STRUCT_SIZE, nullptr,        frame->ctx,
                              XLA_FFI_ExecutionStage_INSTANTIATE, StateTypeId(), nullptr};
  if (XLA_FFI_Error* error = frame->api->XLA_FFI_State_Get(&args)) return error;
  auto& site = *static_cast<CallSite*>(args.state);
  std::vector<Buffer> operands;
  std::vector<Buffer> results;
  CollectBuffers(frame->args.args, frame->args.size, &operands);
  if (!site.no_results) CollectBuffers(frame->rets.rets, frame->rets.size, &results);
  const Outcome outcome = Invoke(site, operands, results, site.shared_run ? RunId(frame) : 0);
  if (outcome.ok) return nullptr;
  return MakeError(frame->api, XLA_FFI_Error_Code_INTERNAL, outcome.message);
}

}  // namespace

void* InstantiateHandler() { return reinterpret_cast<void*>(Instantiate); }
void* ExecuteHandler() { return reinterpret_cast<void*>(Execute); }
void* StateTypeIdPointer() { return StateTypeId(); }
void* StateTypeInfoPointer() { return StateTypeInfo(); }

}  // namespace callbax
