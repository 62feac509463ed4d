// XLA FFI handlers for callbacks of programs on NVIDIA GPUs: the handler of the CPU, over staged arrays.
//
// XLA calls execute with the device's context current, on the thread that dispatches the program (one
// device) or on the device's own (several), and holds a shared lock on the GPU until it returns.
#include <exception>
#include <string>

#include "call.h"
#include "cuda_driver.h"
#include "ffi.h"
#include "long_calls.h"
#include "staging.h"

namespace callbax {
namespace {

// XLA keeps types of states by platform, so this one has its own.
struct CudaCallSite : CallSite {
  CudaCallSite() { elsewhere = true; }
};

Outcome Fail(const CallSite& site, const std::string& what) {
  const std::string callee = site.callback ? " of " + site.callback->name() : "";
  return {false, "callbax: a call (" + site.flavour + ")" + callee +
                     " failed between the GPU and the host: " + what};
}

std::string Explain(const CudaError& error) {
  if (error.result() == kCudaIsGone) return "the process is ending, and CUDA's driver has ended";
  return std::string(error.what()) +
         ". CUDA reports what a kernel has done wrong at any later step, so the cause may be one "
         "that ran before this call; the GPU may be unusable in this process from now on.";
}

Outcome CallWatched(CudaCallSite& site, const CallbackFrame& call) {
  const WatchedCall watched(site.callback);
  return Invoke(site, call.operands, call.results, call.run_id);
}

Outcome CallOnHost(XLA_FFI_CallFrame* frame, CudaCallSite& site) {
  std::string why;
  const CudaDriver* driver = FindCudaDriver(&why);
  if (driver == nullptr) return Fail(site, why);
  XLA_FFI_Stream_Get_Args args{XLA_FFI_Stream_Get_Args_STRUCT_SIZE, nullptr, frame->ctx, nullptr};
  if (Ignore(frame->api, frame->api->XLA_FFI_Stream_Get(&args))) {
    return Fail(site, "XLA has no stream for it");
  }
  CallbackFrame call(frame, site);
  if (site.fence) call.operands.clear();
  Staging staging(*driver, static_cast<CudaStream>(args.stream), &call.operands, &call.results);
  if (site.fence) Pass(call.results);
  const Outcome outcome = site.fence ? Outcome{} : CallWatched(site, call);
  if (outcome.ok) staging.SendResults();
  return outcome;
}

struct CudaCallbackHandler {
  using Site = CudaCallSite;
  static constexpr const char* kCallee = "the host function";

  // The end of the call is not that of its program, so the site is never the last of one.
  static XLA_FFI_Error* Execute(XLA_FFI_CallFrame* frame, CudaCallSite& site) {
    last_site = 0;
    try {
      return Encode(frame->api, CallOnHost(frame, site));
    } catch (const CudaError& error) {
      return Encode(frame->api, Fail(site, Explain(error)));
    } catch (const std::exception& error) {
      return Encode(frame->api, Fail(site, error.what()));
    }
  }
};

}  // namespace

HandlerAddresses CudaCallbackHandlers() { return Stages<CudaCallbackHandler>::Addresses(); }

}  // namespace callbax
