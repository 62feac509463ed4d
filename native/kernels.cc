// Kernels: compiled functions that get whole arrays, by the prototype of callbax/kernel.h.
#include <cstring>
#include <exception>

#include "call.h"
#include "callbax/kernel.h"
#include "lanes.h"

namespace callbax {
namespace {

constexpr size_t kMessageSize = 1024;

std::vector<callbax_array> Describe(const std::vector<Buffer>& buffers) {
  std::vector<callbax_array> arrays;
  arrays.reserve(buffers.size());
  for (const Buffer& buffer : buffers) {
    arrays.push_back({buffer.data, buffer.dims, CountElements(buffer.rank, buffer.dims),
                      static_cast<int32_t>(buffer.rank), buffer.dtype});
  }
  return arrays;
}

void Repoint(const std::vector<Buffer>& buffers, std::vector<callbax_array>* arrays) {
  for (size_t i = 0; i < buffers.size(); ++i) (*arrays)[i].data = buffers[i].data;
}

// The code that the kernel returns; what a kernel in C++ throws counts as 1.
int Call(callbax_kernel kernel, const callbax_call& call, std::string* message) {
  try {
    const int code = kernel(&call);
    if (code != 0) message->assign(call.message, strnlen(call.message, call.message_size));
    return code;
  } catch (const std::exception& error) {
    *message = std::string("C++ exception: ") + error.what();
  } catch (...) {
    *message = "C++ exception of a type that is not a std::exception";
  }
  return 1;
}

}  // namespace

bool RunKernel(const CallSite& site, const std::vector<Buffer>& operands,
               const std::vector<Buffer>& results, KernelFailure* failure) {
  const NativeKernel& kernel = site.callback->kernel;
  LaneCursor cursor(site.lanes, operands, results);
  if (cursor.problem() != nullptr) {
    *failure = {1, cursor.problem(), {-1, {}, operands}};
    return false;
  }
  std::vector<callbax_array> arguments = Describe(cursor.operands());
  std::vector<callbax_array> outputs = Describe(cursor.results());
  char message[kMessageSize] = "";
  const callbax_call call{sizeof(callbax_call),
                          static_cast<int32_t>(arguments.size()),
                          static_cast<int32_t>(outputs.size()),
                          arguments.data(),
                          outputs.data(),
                          kernel.user_data,
                          message,
                          sizeof message};
  for (int64_t lane = 0; lane < cursor.count(); ++lane) {
    cursor.Seek(lane, operands, results);
    Repoint(cursor.operands(), &arguments);
    Repoint(cursor.results(), &outputs);
    failure->code =
        Call(reinterpret_cast<callbax_kernel>(kernel.function), call, &failure->message);
    if (failure->code == 0) continue;
    failure->call = {site.lanes.sizes.empty() ? -1 : lane, cursor.sizes(), cursor.operands()};
    return false;
  }
  return true;
}

}  // namespace callbax
