// One range of a loop's items on one thread, with buffers of half the bits converted on the way.
#include <algorithm>

#include "loops.h"

namespace callbax {
namespace {

// XLA's codes of the data types that are converted (xla/xla_data.proto, PrimitiveType).
constexpr int kInt32 = 4;
constexpr int kInt64 = 5;
constexpr int kUint32 = 8;
constexpr int kUint64 = 9;
constexpr int kFloat32 = 11;
constexpr int kFloat64 = 12;
constexpr int kComplex64 = 15;
constexpr int kComplex128 = 18;

// Elements of one argument that are converted at a time: they stay in the first-level cache.
constexpr int64_t kBlock = 1024;

// The type of half the bits, or 0.
int NarrowCode(int code) noexcept {
  switch (code) {
    case kFloat64: return kFloat32;
    case kComplex128: return kComplex64;
    case kInt64: return kInt32;
    case kUint64: return kUint32;
    default: return 0;
  }
}

template <class To, class From>
void ConvertElements(const void* from, int64_t count, void* to) noexcept {
  const auto* in = static_cast<const From*>(from);
  auto* out = static_cast<To*>(to);
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<To>(in[i]);
}

// `code` is the narrow type. Complex numbers are pairs.
void Widen(int code, const void* from, int64_t count, void* to) noexcept {
  switch (code) {
    case kFloat32: return ConvertElements<double, float>(from, count, to);
    case kComplex64: return ConvertElements<double, float>(from, 2 * count, to);
    case kInt32: return ConvertElements<int64_t, int32_t>(from, count, to);
    case kUint32: return ConvertElements<uint64_t, uint32_t>(from, count, to);
    default: return;
  }
}

void Narrow(int code, const void* from, int64_t count, void* to) noexcept {
  switch (code) {
    case kFloat32: return ConvertElements<float, double>(from, count, to);
    case kComplex64: return ConvertElements<float, double>(from, 2 * count, to);
    case kInt32: return ConvertElements<int32_t, int64_t>(from, count, to);
    case kUint32: return ConvertElements<uint32_t, uint64_t>(from, count, to);
    default: return;
  }
}

// The loop's arguments for a range of items.
struct RangeArguments {
  char* args[kMaxLoopArguments];
  intptr_t dims[1 + kMaxCoreDimensions];
  intptr_t steps[kMaxLoopArguments * (1 + kMaxCoreDimensions)];
};

// Everything but args[], dims[0] and the steps from item to item, which differ between ranges.
void FillCore(const LoopCall& call, RangeArguments* range) {
  const Loop& loop = *call.loop;
  for (size_t d = 0; d < loop.core_dimensions; ++d) range->dims[1 + d] = call.core_sizes[d];
  intptr_t* step = range->steps + loop.arguments.size();
  for (const LoopArgument& argument : loop.arguments) {
    const size_t rank = argument.core.size();
    intptr_t stride = argument.itemsize;
    for (size_t k = rank; k-- > 0;) {
      step[k] = stride;
      stride *= call.core_sizes[argument.core[k]];
    }
    step += rank;
  }
}

void RunDirectly(const LoopCall& call, int64_t begin, int64_t end) {
  RangeArguments range;
  const size_t arguments = call.loop->arguments.size();
  for (size_t i = 0; i < arguments; ++i) {
    range.args[i] = call.buffers[i].data + begin * call.buffers[i].stride;
    range.steps[i] = call.buffers[i].stride;
  }
  range.dims[0] = end - begin;
  if (call.loop->core_dimensions > 0) FillCore(call, &range);
  call.loop->function(range.args, range.dims, range.steps, call.loop->data);
}

// Buffers of narrower types pass through blocks of the loop's own type.
class Converter {
 public:
  Converter(const LoopCall& call) : call_(call), loop_(*call.loop) {
    int64_t largest = 1;
    for (size_t i = 0; i < loop_.arguments.size(); ++i) {
      largest = std::max(largest, call.buffers[i].elements);
    }
    items_ = std::max<int64_t>(1, kBlock / largest);
    size_t bytes = 0;
    for (size_t i = 0; i < loop_.arguments.size(); ++i) {
      offsets_[i] = bytes;
      // Each block begins at a multiple of 64 bytes.
      if (Converts(i)) bytes += (static_cast<size_t>(items_ * ItemBytes(i)) + 63) / 64 * 64;
    }
    storage_.resize(bytes + 64);
    base_ = storage_.data() + (64 - reinterpret_cast<uintptr_t>(storage_.data()) % 64);
  }

  void Run(int64_t begin, int64_t end) {
    FillCore(call_, &range_);
    for (int64_t at = begin; at < end; at += items_) RunBlock(at, std::min(items_, end - at));
  }

 private:
  bool Converts(size_t i) const { return call_.buffers[i].code != loop_.arguments[i].code; }
  int64_t ItemBytes(size_t i) const {
    return call_.buffers[i].elements * loop_.arguments[i].itemsize;
  }

  void RunBlock(int64_t at, int64_t items) {
    for (size_t i = 0; i < loop_.arguments.size(); ++i) {
      const LoopBuffer& buffer = call_.buffers[i];
      char* data = buffer.data + at * buffer.stride;
      range_.args[i] = data;
      range_.steps[i] = buffer.stride;
      if (!Converts(i)) continue;
      range_.args[i] = base_ + offsets_[i];
      const bool repeated = buffer.stride == 0 && i < loop_.operands;
      range_.steps[i] = repeated ? 0 : ItemBytes(i);
      if (i < loop_.operands) {
        Widen(buffer.code, data, (repeated ? 1 : items) * buffer.elements, range_.args[i]);
      }
    }
    range_.dims[0] = items;
    loop_.function(range_.args, range_.dims, range_.steps, loop_.data);
    for (size_t i = loop_.operands; i < loop_.arguments.size(); ++i) {
      const LoopBuffer& buffer = call_.buffers[i];
      if (!Converts(i)) continue;
      // Not range_.args[i], which belongs to the loop: SciPy's advance it from item to item.
      const char* computed = base_ + offsets_[i];
      Narrow(buffer.code, computed, items * buffer.elements, buffer.data + at * buffer.stride);
    }
  }

  const LoopCall& call_;
  const Loop& loop_;
  int64_t items_ = 1;  // in a block
  size_t offsets_[kMaxLoopArguments] = {};
  std::vector<char> storage_;
  char* base_ = nullptr;
  RangeArguments range_;
};

}  // namespace

bool Fits(const LoopArgument& argument, int code, bool is_operand) noexcept {
  if (code == argument.code || code == NarrowCode(argument.code)) return true;
  // Widened to 64 bits, a uint32 is the same number whether these are signed or not.
  return is_operand && code == kUint32 && argument.code == kInt64;
}

void RunRange(const LoopCall& call, int64_t begin, int64_t end) {
  if (call.converts) {
    Converter(call).Run(begin, end);
  } else {
    RunDirectly(call, begin, end);
  }
}

}  // namespace callbax
