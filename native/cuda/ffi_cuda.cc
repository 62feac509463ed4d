// XLA FFI handlers for programs on NVIDIA GPUs: the calls of the CPU's handlers, over staged arrays.
//
// XLA calls execute with the device's context current, on the thread that dispatches the program (one
// device) or on the device's own (several), and holds a shared lock on the GPU until it returns.
#include <exception>
#include <string>

#include "call.h"
#include "cuda_driver.h"
#include "ffi.h"
#include "helpers.h"
#include "long_calls.h"
#include "loop_call.h"
#include "staging.h"

namespace callbax {
namespace {

// XLA keeps types of states by platform, so these have their own.
struct CudaCallSite : CallSite {
  CudaCallSite() { elsewhere = true; }
};
struct CudaLoopSite : LoopSite {};

std::string NameOf(const CallSite& site) {
  return "(" + site.flavour + ")" + (site.callback ? " of " + site.callback->name() : "");
}
std::string NameOf(const LoopSite& site) { return "of the compiled function " + site.loop->name(); }

std::string Explain(const CudaError& error) {
  if (error.result() == kCudaIsGone) return "the process is ending, and CUDA's driver has ended";
  return std::string(error.what()) +
         ". CUDA reports what a kernel has done wrong at any later step, so the cause may be one "
         "that ran before this call; the GPU may be unusable in this process from now on.";
}

// Handler has `Frame`, the arrays of a call, and `Call(frame, site)`, which runs it over host memory.
template <class Handler>
struct OnHost {
  using Site = typename Handler::Site;
  static constexpr const char* kCallee = Handler::kCallee;

  // The end of the call is not that of its program, so the site is never the last of one.
  static XLA_FFI_Error* Execute(XLA_FFI_CallFrame* frame, Site& site) {
    last_site = 0;
    try {
      return Encode(frame->api, CallOnHost(frame, site));
    } catch (const CudaError& error) {
      return Encode(frame->api, Fail(site, Explain(error)));
    } catch (const std::exception& error) {
      return Encode(frame->api, Fail(site, error.what()));
    }
  }

 private:
  static Outcome CallOnHost(XLA_FFI_CallFrame* frame, Site& site) {
    std::string why;
    const CudaDriver* driver = FindCudaDriver(&why);
    if (driver == nullptr) return Fail(site, why);
    XLA_FFI_Stream_Get_Args args{XLA_FFI_Stream_Get_Args_STRUCT_SIZE, nullptr, frame->ctx, nullptr};
    if (Ignore(frame->api, frame->api->XLA_FFI_Stream_Get(&args))) {
      return Fail(site, "XLA has no stream for it");
    }
    typename Handler::Frame call(frame, site);
    Staging staging(*driver, static_cast<CudaStream>(args.stream), &call.operands, &call.results);
    const Outcome outcome = Handler::Call(call, site);
    if (outcome.ok) staging.SendResults();
    return outcome;
  }

  static Outcome Fail(const Site& site, const std::string& what) {
    return {false, "callbax: a call " + NameOf(site) +
                       " failed between the GPU and the host: " + what};
  }
};

struct CudaCallbackHandler {
  using Site = CudaCallSite;
  static constexpr const char* kCallee = "the host function";

  struct Frame : CallbackFrame {
    Frame(XLA_FFI_CallFrame* frame, const CudaCallSite& site) : CallbackFrame(frame, site) {
      if (site.fence) operands.clear();
    }
  };

  static Outcome Call(const Frame& call, CudaCallSite& site) {
    if (site.fence) {
      Pass(call.results);
      return {};
    }
    const WatchedCall watched(site.callback);
    return Invoke(site, call.operands, call.results, call.run_id);
  }
};

struct CudaLoopHandler {
  using Site = CudaLoopSite;
  static constexpr const char* kCallee = "the compiled function";

  struct Frame {
    Frame(XLA_FFI_CallFrame* frame, const CudaLoopSite& site) {
      const LoopFrame call(frame, site.widened);
      for (size_t i = 0; i < call.operands; ++i) operands.push_back(call(i));
      for (size_t i = 0; i < call.results; ++i) results.push_back(call(call.operands + i));
    }
    std::vector<Buffer> operands;
    std::vector<Buffer> results;
  };

  static Outcome Call(const Frame& call, CudaLoopSite& site) {
    const size_t operands = call.operands.size();
    const auto buffer = [&](size_t i) {
      return i < operands ? call.operands[i] : call.results[i - operands];
    };
    return CallLoop(site, operands, call.results.size(), buffer, PoolOfHelpers());
  }
};

}  // namespace

HandlerAddresses CudaCallbackHandlers() { return Stages<OnHost<CudaCallbackHandler>>::Addresses(); }
HandlerAddresses CudaLoopHandlers() { return Stages<OnHost<CudaLoopHandler>>::Addresses(); }

}  // namespace callbax
