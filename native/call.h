// What the XLA side and the Python side say to each other, in neither one's types.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "registry.h"

namespace callbax {

// Where a large result goes on to from its buffer.
class Destination {
 public:
  // Sends the result from the memory that it is given in, in place of the buffer's. Needs no GIL. What
  // fails is the call's failure later.
  virtual void Send(const void* source) noexcept = 0;
  // What was sent is wrong after all: the buffer has the result.
  virtual void Withdraw() noexcept = 0;

 protected:
  ~Destination() = default;
};

// Data type codes are XLA's (xla_data.proto), which are stable.
struct Buffer {
  int dtype = 0;
  void* data = nullptr;
  int64_t rank = 0;
  const int64_t* dims = nullptr;
  bool expanded = false;  // a sub-byte type with one element per byte, as NumPy stores it
  const Reference* owner = nullptr;    // of an operand's memory, if an array may have it; else null
  Destination* destination = nullptr;  // of a large result; null: the buffer
};

inline int64_t CountElements(int64_t rank, const int64_t* dims) noexcept {
  int64_t count = 1;
  for (int64_t i = 0; i < rank; ++i) count *= dims[i];
  return count;
}

// Shapes of a call's own, for buffers that outlive the frame from which they come.
class KeptShapes {
 public:
  void Keep(std::vector<Buffer>* buffers) {
    for (Buffer& buffer : *buffers) {
      shapes_.emplace_back(buffer.dims, buffer.dims + buffer.rank);
      buffer.dims = shapes_.back().data();
    }
  }

 private:
  std::list<std::vector<int64_t>> shapes_;
};

// A batch that is run lane by lane. Axis 0 varies slowest. Every result has all lane axes in front;
// operand i has axis k in front if bit k of operand_axes[i] is set, else it is the same in each lane.
struct Lanes {
  std::vector<int64_t> sizes;
  std::vector<int64_t> operand_axes;
};

// In which settings a callback runs on XLA's threads. Immutable.
struct Settings {
  std::string configuration;  // of JAX, as _runtime/surroundings.py writes it
  Reference context;          // contextvars.Context; null: an empty one
};

using SettingsPtr = std::shared_ptr<const Settings>;

// Arrays ready to be handed out again. Guarded by the GIL.
struct SpareArrays {
  std::vector<void*> arrays;
};

// Which call of a callback has failed.
struct FailedCall {
  int64_t lane = -1;              // negative: not one of several
  std::vector<int64_t> sizes;     // of the batch
  std::vector<Buffer> arguments;  // of the lane, or of the call
};

// How many calls XLA has been given in programs on several devices. Each has a number from it, by which
// Python tells in which program it is.
inline std::atomic<int64_t> numbered_calls{0};

inline std::atomic<int64_t> site_ids{0};

// The site of the last call on this thread, if that has succeeded; 0: none, or it was asked for.
inline thread_local int64_t last_site = 0;

// One call of a callback in one executable: the state that XLA keeps for it.
struct CallSite {
  ~CallSite();

  const int64_t id = ++site_ids;  // no other site of this process has it
  std::shared_ptr<Callback> callback;
  std::string flavour;  // "pure_callback", ...: for messages
  Lanes lanes;
  bool canonicalize = false;    // 64-bit results may be narrowed: x64 was off when this was traced
  bool shared_run = false;      // the program runs on several devices
  int64_t number = 0;           // of numbered_calls, if it does
  bool no_results = false;      // whatever result buffers there are, the callback has none
  bool ignores_result = false;  // what the callback returns
  bool unheard = false;         // no result of the program could carry its failure
  bool on_device = false;       // the function gets its arrays in the memory of a GPU
  bool elsewhere = false;       // the program is one of another platform
  bool deferred = false;        // its failures reach it by its results alone, whatever thread calls
  bool detached = false;        // on GPUs, its program goes on without it
  bool fence = false;           // nothing is called; a result is True (_jax/per_shard.py)
  bool widened = false;         // the first operand has one dimension more, the last, of size 1
  std::string casting;          // which results of another dtype are converted; "" for none
  bool views = false;           // arguments are views of XLA's memory
  bool out = false;             // the function writes its results in place
  std::vector<int64_t> empty;   // positions of float0 results, which XLA has as booleans
  SettingsPtr settings;         // of the trace, for XLA's threads; null: none
  bool needs_pool = false;      // the function computes with arrays of the client that calls it
  bool trusted = false;         // the last call has kept no view; guarded by the GIL
  std::vector<SpareArrays> spare;  // for each operand, and with `out` for each result
};

struct Outcome {
  bool ok = true;
  std::string message;
};

// The id of a run that has none. XLA's ids may be negative, too.
inline constexpr int64_t kNoRun = INT64_MIN;

// Where the arrays of a call are, if not on the host. Objects are Python's; all but Fill need the GIL.
class Device {
 public:
  virtual ~Device() = default;
  // A new reference to an array over the buffer, or null with an error set.
  virtual void* NewArray(const Buffer& buffer, bool writable) = 0;
  // Nobody gets that array's memory any more.
  virtual void Expire(void* array) = 0;
  // Copies an array of the result's shape and type to it. False with an error set.
  virtual bool Write(const Buffer& result, void* array) = 0;
  // What the function has done with the device comes before what the program does next. False with an
  // error set.
  virtual bool Join() = 0;
  virtual void Fill(const Buffer& result, uint8_t byte) noexcept = 0;
};

// Calls the callback once for each lane and fills `results`. Takes the GIL; never throws. A negative
// run id means that it is not known.
Outcome Invoke(CallSite& site, const std::vector<Buffer>& operands,
               const std::vector<Buffer>& results, int64_t run_id,
               Device* device = nullptr) noexcept;

// Keeps a failure for the next barrier, since nothing that the program returns carries it. Takes the GIL.
void KeepFailure(const std::string& message) noexcept;

// Waits for the calls that are detached from their programs so far; null if there never was one.
inline std::atomic<void (*)()> await_detached{nullptr};

struct KernelFailure {
  int code = 0;  // what the kernel returned
  std::string message;
  FailedCall call;
};

// Calls the site's kernel once for each lane. False if it failed, with the reason. Nothing here touches
// Python, so a kernel runs whoever holds the GIL.
bool RunKernel(const CallSite& site, const std::vector<Buffer>& operands,
               const std::vector<Buffer>& results, KernelFailure* failure);

// The registered callee of that name; asks Python to resolve a name not met before. If it is null,
// `why` says what the name means and why this process does not call it.
CalleePtr ResolveCallee(const std::string& name, std::string* why);

// What a program says of one of its calls. The attributes are XLA's (ffi.h), or Python's (host_sites.cc)
// where JAX calls in XLA's place.
//
// The callee that an attribute names, of the kind that this call is for; null if there is none.
template <class Kind, class Attributes>
std::shared_ptr<Kind> ReadCallee(const Attributes& attributes, const char* attribute,
                                 std::string* why) {
  std::string name;
  attributes.Read(attribute, &name);
  const CalleePtr callee = ResolveCallee(name, why);
  auto wanted = std::dynamic_pointer_cast<Kind>(callee);
  if (callee && !wanted) *why = name + ", which is called in another way";
  return wanted;
}

// False, with the reason, if there is no callee.
template <class Attributes>
bool ReadSite(const Attributes& attributes, CallSite* site, std::string* why) {
  attributes.Read("fence", &site->fence);
  if (site->fence) return true;
  attributes.Read("flavour", &site->flavour);
  attributes.Read("canonicalize", &site->canonicalize);
  attributes.Read("casting", &site->casting);
  attributes.Read("shared_run", &site->shared_run);
  attributes.Read("no_results", &site->no_results);
  attributes.Read("ignores_result", &site->ignores_result);
  attributes.Read("unheard", &site->unheard);
  attributes.Read("deferred", &site->deferred);
  attributes.Read("detached", &site->detached);
  attributes.Read("on_device", &site->on_device);
  attributes.Read("widened", &site->widened);
  attributes.Read("views", &site->views);
  attributes.Read("out", &site->out);
  attributes.Read("empty", &site->empty);
  attributes.Read("needs_pool", &site->needs_pool);
  attributes.Read("lanes", &site->lanes.sizes);
  attributes.Read("operand_lanes", &site->lanes.operand_axes);
  Settings settings;
  attributes.Read("configuration", &settings.configuration);
  site->callback = ReadCallee<Callback>(attributes, "callback", why);
  if (!site->callback) return false;
  settings.context = site->callback->Context();
  if (settings.context || !settings.configuration.empty()) {
    site->settings = std::make_shared<const Settings>(std::move(settings));
  }
  return true;
}

// A new site with the number of its call, if its program runs on several devices.
template <class Site, class Attributes>
std::unique_ptr<Site> NewSite(const Attributes& attributes, std::string* why) {
  auto site = std::make_unique<Site>();
  bool shared_run = false;
  attributes.Read("shared_run", &shared_run);
  if (shared_run) site->number = ++numbered_calls;
  return ReadSite(attributes, site.get(), why) ? std::move(site) : nullptr;
}

// What JAX registers with XLA (see callbax/_start.py) for one kind of site.
struct HandlerAddresses {
  void* instantiate;
  void* execute;
  void* type_id;
  void* type_info;
};
HandlerAddresses CallbackHandlers();
HandlerAddresses LoopHandlers();
HandlerAddresses CudaCallbackHandlers();
HandlerAddresses CudaLoopHandlers();

}  // namespace callbax
