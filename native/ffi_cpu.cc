// XLA FFI handlers for CPU: decode a call frame, hand it to Invoke, encode the outcome.
//
// Instantiate runs once per call in an executable, on a compile thread; it looks the callback up by
// name and leaves a CallSite as the state that XLA keeps until the executable dies. Execute runs on
// any XLA thread, several at once; a call that must not hold a thread of XLA's pool goes to a helper, and
// XLA gets a future for it.
#include "ffi_cpu.h"

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "call.h"
#include "ffi.h"
#include "helpers.h"

namespace callbax {
namespace {

using State = StateOf<CallSite>;

XLA_FFI_Error* Instantiate(XLA_FFI_CallFrame* frame) {
  if (AnswerMetadata(frame, State::Id())) return nullptr;
  auto site = std::make_unique<CallSite>();
  std::string name;
  const Attributes attributes(frame->attrs);
  attributes.Read("callback", &name);
  attributes.Read("flavour", &site->flavour);
  attributes.Read("canonicalize", &site->canonicalize);
  attributes.Read("casting", &site->casting);
  attributes.Read("shared_run", &site->shared_run);
  attributes.Read("no_results", &site->no_results);
  attributes.Read("views", &site->views);
  attributes.Read("out", &site->out);
  attributes.Read("empty", &site->empty);
  attributes.Read("needs_pool", &site->needs_pool);
  attributes.Read("lanes", &site->lanes.sizes);
  attributes.Read("operand_lanes", &site->lanes.operand_axes);
  if (site->shared_run) site->number = ++numbered_calls;
  Settings settings;
  attributes.Read("configuration", &settings.configuration);
  std::string why;
  site->slot = ResolveSlot(name, &why);
  if (!site->slot) {
    return MakeError(frame->api, XLA_FFI_Error_Code_NOT_FOUND,
                     "callbax: this program calls the host function " + why);
  }
  settings.context = site->slot->Context();
  if (settings.context || !settings.configuration.empty()) {
    site->settings = std::make_shared<const Settings>(std::move(settings));
  }
  return State::Set(frame, std::move(site));
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

// A call whose frame is gone when it runs. XLA keeps its buffers until the future is completed, and the
// executable, with the site, too.
struct PostponedCall {
  // Points the buffers to shapes of the call's own.
  void KeepShapes() {
    for (std::vector<Buffer>* buffers : {&operands, &results}) {
      for (Buffer& buffer : *buffers) {
        shapes.emplace_back(buffer.dims, buffer.dims + buffer.rank);
        buffer.dims = shapes.back().data();
      }
    }
  }

  void Run() {
    const Outcome outcome = Invoke(*site, operands, results, run_id);
    if (outcome.ok) {
      XLA_FFI_Future_SetAvailable_Args args{XLA_FFI_Future_SetAvailable_Args_STRUCT_SIZE, nullptr,
                                            future};
      Ignore(api->XLA_FFI_Future_SetAvailable(&args));
      return;
    }
    XLA_FFI_Error* error = MakeError(api, XLA_FFI_Error_Code_INTERNAL, outcome.message);
    XLA_FFI_Future_SetError_Args args{XLA_FFI_Future_SetError_Args_STRUCT_SIZE, nullptr, future,
                                      error};
    Ignore(api->XLA_FFI_Future_SetError(&args));
  }

  // Completing a future fails only for a future that is none.
  void Ignore(XLA_FFI_Error* error) {
    if (error == nullptr) return;
    XLA_FFI_Error_Destroy_Args destroy{XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
    api->XLA_FFI_Error_Destroy(&destroy);
  }

  const XLA_FFI_Api* api;
  CallSite* site;
  std::vector<Buffer> operands;
  std::vector<Buffer> results;
  int64_t run_id;
  XLA_FFI_Future* future = nullptr;
  std::list<std::vector<int64_t>> shapes;
};

// Hands the call to a helper. False if it must be run here after all.
bool Postpone(XLA_FFI_CallFrame* frame, CallSite& site, const std::vector<Buffer>& operands,
              const std::vector<Buffer>& results, int64_t run_id) {
  XLA_FFI_Future_Create_Args args{XLA_FFI_Future_Create_Args_STRUCT_SIZE, nullptr, nullptr};
  auto call = std::make_shared<PostponedCall>();
  *call = {frame->api, &site, operands, results, run_id, nullptr, {}};
  if (XLA_FFI_Error* error = frame->api->XLA_FFI_Future_Create(&args)) {
    call->Ignore(error);
    return false;
  }
  call->future = args.future;
  call->KeepShapes();
  frame->future = args.future;
  // If no thread can be started, this one completes the future.
  if (!RunOnHelper([call] { call->Run(); })) call->Run();
  return true;
}

XLA_FFI_Error* Execute(XLA_FFI_CallFrame* frame) {
  if (AnswerMetadata(frame, State::Id())) return nullptr;
  CallSite* state = nullptr;
  if (XLA_FFI_Error* error = State::Get(frame, &state)) return error;
  CallSite& site = *state;
  std::vector<Buffer> operands;
  std::vector<Buffer> results;
  CollectBuffers(frame->args.args, frame->args.size, &operands);
  if (!site.no_results) CollectBuffers(frame->rets.rets, frame->rets.size, &results);
  const int64_t run_id = site.shared_run ? RunId(frame) : 0;
  if (site.needs_pool && OnPoolThread() && Postpone(frame, site, operands, results, run_id)) {
    return nullptr;
  }
  const Outcome outcome = Invoke(site, operands, results, run_id);
  if (outcome.ok) return nullptr;
  return MakeError(frame->api, XLA_FFI_Error_Code_INTERNAL, outcome.message);
}

}  // namespace

void* InstantiateHandler() { return reinterpret_cast<void*>(Instantiate); }
void* ExecuteHandler() { return reinterpret_cast<void*>(Execute); }
void* StateTypeIdPointer() { return State::Id(); }
void* StateTypeInfoPointer() { return State::Info(); }

}  // namespace callbax
