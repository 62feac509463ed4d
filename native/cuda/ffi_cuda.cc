// XLA FFI handlers for programs on NVIDIA GPUs: the calls of the CPU's handlers, over staged arrays.
//
// XLA calls execute with the device's context current, on the thread that dispatches the program (one
// device) or on the device's own (several), and holds a shared lock on the GPU until it returns.
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "call.h"
#include "cuda_driver.h"
#include "device_call.h"
#include "ffi.h"
#include "helpers.h"
#include "long_calls.h"
#include "loop_call.h"
#include "staging.h"
#include "worker.h"

namespace callbax {
namespace {

// XLA keeps types of states by platform, so these have their own.
struct CudaCallSite : CallSite, std::enable_shared_from_this<CudaCallSite> {
  CudaCallSite() { elsewhere = true; }
};
struct CudaLoopSite : LoopSite {};

Outcome Refusal(const std::string& call, const std::string& what) {
  return {false, "callbax: a call " + call + " failed between the GPU and the host: " + what};
}
Outcome Fail(const LoopSite& site, const std::string& what) {
  return Refusal("of the compiled function " + site.loop->name(), what);
}
Outcome Fail(const CallSite& site, const std::string& what) {
  const std::string callee = site.callback ? " of " + site.callback->name() : "";
  Outcome outcome = Refusal("(" + site.flavour + ")" + callee, what);
  if (site.deferred) KeepFailure(outcome.message);
  return outcome;
}

std::string Explain(const CudaError& error) {
  if (error.result() == kCudaIsGone) return "the process is ending, and CUDA's driver has ended";
  return std::string(error.what()) +
         ". CUDA reports what a kernel has done wrong at any later step, so the cause may be one "
         "that ran before this call; the GPU may be unusable in this process from now on.";
}

// The outcome of a step that may throw.
template <class Site, class Step>
Outcome Try(const Site& site, const Step& step) {
  try {
    return step();
  } catch (const CudaError& error) {
    return Fail(site, Explain(error));
  } catch (const std::exception& error) {
    return Fail(site, error.what());
  }
}

// Handler has `Frame`, the arrays of a call, `UseOf(site)`, what the call does with them, and
// `Call(frame, site, device)`, which runs it over host memory, or over the device's if `IsOnDevice(site)`.
// If `Detaches(site)`, `Detach` takes the frame, and has the call run later.
template <class Handler>
struct OnHost {
  using Site = typename Handler::Site;
  static constexpr const char* kCallee = Handler::kCallee;

  // The end of the call is not that of its program, so the site is never the last of one.
  static XLA_FFI_Error* Execute(XLA_FFI_CallFrame* frame, Site& site) {
    last_site = 0;
    const Outcome outcome = Try(site, [&] { return CallOnHost(frame, site); });
    if (outcome.ok || !Handler::Detaches(site)) return Encode(frame->api, outcome);
    KeepFailure(outcome.message);
    return nullptr;
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
    const auto stream = static_cast<CudaStream>(args.stream);
    typename Handler::Frame call(frame, site);
    if (Handler::Detaches(site) && !Worker::IsThis()) {
      Handler::Detach(*driver, stream, std::move(call), site);
      return {};
    }
    KeepOrder(frame);
    if (Handler::IsOnDevice(site)) return CallOnDevice(frame, call, site, *driver, stream);
    Staging staging(*driver, stream, &call.operands, &call.results, Handler::UseOf(site));
    staging.AwaitOperands();
    const Outcome outcome = Handler::Call(call, site);
    if (outcome.ok) staging.SendResults();
    return outcome;
  }

  static Outcome CallOnDevice(XLA_FFI_CallFrame* frame, const typename Handler::Frame& call,
                              Site& site, const CudaDriver& driver, CudaStream stream) {
    RefuseCapture(driver, stream);
    XLA_FFI_DeviceOrdinal_Get_Args args{XLA_FFI_DeviceOrdinal_Get_Args_STRUCT_SIZE, nullptr,
                                        frame->ctx, 0};
    if (Ignore(frame->api, frame->api->XLA_FFI_DeviceOrdinal_Get(&args))) {
      return Fail(site, "XLA does not say which GPU it is for");
    }
    const auto device = NewCudaDevice(driver, stream, args.device_ordinal);
    return Handler::Call(call, site, device.get());
  }
};

// A call whose frame, program and executable may be gone when it runs.
class DetachedCall {
 public:
  DetachedCall(const CudaDriver& driver, CudaStream stream, CallbackFrame call, CudaCallSite& site,
               Staging::Use use)
      : driver_(driver),
        site_(site.shared_from_this()),
        call_(std::move(call)),
        staging_(driver, stream, &call_.operands, &call_.results, use) {
    shapes_.Keep(&call_.operands);
    CALLBAX_CUDA(driver_, cuCtxGetCurrent, &context_);
  }

  void Run() noexcept {
    const Outcome outcome = Try(*site_, [this] {
      CALLBAX_CUDA(driver_, cuCtxSetCurrent, context_);
      staging_.AwaitOperands();
      return Invoke(*site_, call_.operands, call_.results, call_.run_id);
    });
    if (!outcome.ok) KeepFailure(outcome.message);
  }

 private:
  const CudaDriver& driver_;
  const std::shared_ptr<CudaCallSite> site_;
  CallbackFrame call_;
  KeptShapes shapes_;
  Staging staging_;
  CudaContext context_ = nullptr;
};

struct CudaCallbackHandler {
  using Site = CudaCallSite;
  static constexpr const char* kCallee = "the host function";

  struct Frame : CallbackFrame {
    Frame(XLA_FFI_CallFrame* frame, const CudaCallSite& site) : CallbackFrame(frame, site) {
      if (site.fence) operands.clear();
    }
  };

  static Staging::Use UseOf(const CudaCallSite& site) {
    const bool is_kernel = site.callback && site.callback->kernel.function != nullptr;
    return {site.lanes.sizes.empty(), !site.views && !is_kernel};
  }

  static bool IsOnDevice(const CudaCallSite& site) { return site.on_device && !site.fence; }

  static Outcome Call(const Frame& call, CudaCallSite& site, Device* device = nullptr) {
    if (site.fence) {
      Pass(call.results);
      return {};
    }
    const WatchedCall watched(site.callback);
    return Invoke(site, call.operands, call.results, call.run_id, device);
  }

  static bool Detaches(const CudaCallSite& site) { return site.detached && !site.on_device; }

  // Half of the pool is for calls that are waited for.
  static void Detach(const CudaDriver& driver, CudaStream stream, Frame call, CudaCallSite& site) {
    await_detached = [] { Worker::Get().Await(Worker::kForEver); };
    Worker& worker = Worker::Get();
    const size_t bytes = Staging::BytesOf(call.operands);
    worker.AwaitRoom(bytes, PinnedPool::Get(driver).limit() / 2);
    const auto detached =
        std::make_shared<DetachedCall>(driver, stream, std::move(call), site, UseOf(site));
    worker.Add(bytes, [detached] { detached->Run(); });
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

  static Staging::Use UseOf(const CudaLoopSite&) { return {true, false}; }

  static bool IsOnDevice(const CudaLoopSite&) { return false; }

  static Outcome Call(const Frame& call, CudaLoopSite& site, Device* = nullptr) {
    const size_t operands = call.operands.size();
    const auto buffer = [&](size_t i) {
      return i < operands ? call.operands[i] : call.results[i - operands];
    };
    return CallLoop(site, operands, call.results.size(), buffer, PoolOfHelpers());
  }

  static bool Detaches(const CudaLoopSite&) { return false; }
  static void Detach(const CudaDriver&, CudaStream, Frame, CudaLoopSite&) {}
};

}  // namespace

HandlerAddresses CudaCallbackHandlers() { return Stages<OnHost<CudaCallbackHandler>>::Addresses(); }
HandlerAddresses CudaLoopHandlers() { return Stages<OnHost<CudaLoopHandler>>::Addresses(); }

}  // namespace callbax
