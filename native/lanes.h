// A batch that is run lane by lane: where each lane's slices lie.
#pragma once

#include <cstdint>
#include <vector>

#include "call.h"
#include "dtypes.h"

namespace callbax {

// What a program says of its batch is data, and may be true of none.
constexpr char kNoSuchLanes[] =
    "this program says that the call is of a batch, with more dimensions than its arrays have";
constexpr char kInconsistentLanes[] =
    "the batched arguments of a partitioned callback are sharded differently along the batch, so "
    "that a device does not hold the same lanes of each; give them one sharding";

// A position in the batch, with the address of every buffer's slice there.
//
// The lane axes' sizes are read off the buffers: in a partitioned program each device holds only its
// own lanes.
class LaneCursor {
 public:
  LaneCursor(const Lanes& lanes, const std::vector<Buffer>& operands,
             const std::vector<Buffer>& results)
      : sizes_(lanes.sizes.size(), 1),
        masks_(lanes.operand_axes),
        operands_(operands),
        results_(results) {
    masks_.resize(operands.size(), 0);
    if (sizes_.size() > kMostAxes) problem_ = kNoSuchLanes;
    for (size_t i = 0; i < operands_.size(); ++i) StripLaneAxes(masks_[i], &operands_[i]);
    for (Buffer& result : results_) StripLaneAxes(-1, &result);
    for (int64_t size : sizes_) count_ *= size;
  }

  // Why these are not the same lanes of all buffers; null if they are.
  const char* problem() const { return problem_; }
  int64_t count() const { return count_; }
  const std::vector<int64_t>& sizes() const { return sizes_; }
  const std::vector<Buffer>& operands() const { return operands_; }
  const std::vector<Buffer>& results() const { return results_; }

  // Moves to lane `lane`, counted with the last axis fastest. `whole_*` are the buffers as given.
  void Seek(int64_t lane, const std::vector<Buffer>& whole_operands,
            const std::vector<Buffer>& whole_results) {
    for (size_t i = 0; i < operands_.size(); ++i) {
      operands_[i].data =
          Slice(whole_operands[i].data, operands_[i], OperandIndex(lane, masks_[i]));
    }
    for (size_t i = 0; i < results_.size(); ++i) {
      results_[i].data = Slice(whole_results[i].data, results_[i], lane);
    }
  }

 private:
  void StripLaneAxes(int64_t mask, Buffer* buffer) {
    for (size_t k = 0; k < sizes_.size() && problem_ != kNoSuchLanes; ++k) {
      if (((mask >> k) & 1) == 0) continue;
      if (buffer->rank == 0) {
        problem_ = kNoSuchLanes;
        return;
      }
      const int64_t size = *buffer->dims;
      if (((seen_ >> k) & 1) != 0 && sizes_[k] != size) problem_ = kInconsistentLanes;
      sizes_[k] = size;
      seen_ |= int64_t{1} << k;
      ++buffer->dims;
      --buffer->rank;
    }
  }

  // Index of the lane among the slices of an operand that has only some of the lane axes.
  int64_t OperandIndex(int64_t lane, int64_t mask) const {
    int64_t index = 0;
    int64_t stride = 1;
    for (size_t k = sizes_.size(); k-- > 0;) {
      const int64_t position = lane % sizes_[k];
      lane /= sizes_[k];
      if ((mask >> k) & 1) {
        index += position * stride;
        stride *= sizes_[k];
      }
    }
    return index;
  }

  static void* Slice(void* data, const Buffer& lane, int64_t index) {
    const Dtype* dtype = FindDtype(lane.dtype);
    if (dtype == nullptr) return data;
    const int64_t bytes = CountElements(lane.rank, lane.dims) * dtype->itemsize;
    return static_cast<char*>(data) + index * bytes;
  }

  static constexpr size_t kMostAxes = 62;  // bits of a mask

  std::vector<int64_t> sizes_;  // 1 where no buffer has the axis
  std::vector<int64_t> masks_;
  std::vector<Buffer> operands_;
  std::vector<Buffer> results_;
  int64_t seen_ = 0;  // bit k: a buffer with lane axis k has been met
  const char* problem_ = nullptr;
  int64_t count_ = 1;
};

// Lanes of a packed type may begin inside a byte, so batches of them are run one element per byte.
class ExpandedBuffers {
 public:
  explicit ExpandedBuffers(const std::vector<Buffer>& buffers) : packed_(buffers), whole_(buffers) {
    storage_.resize(buffers.size());
    for (size_t i = 0; i < buffers.size(); ++i) {
      const Dtype* dtype = FindDtype(buffers[i].dtype);
      if (dtype == nullptr || !dtype->packed() || buffers[i].expanded) continue;
      storage_[i].resize(static_cast<size_t>(CountElements(buffers[i].rank, buffers[i].dims)));
      whole_[i].data = storage_[i].data();
      whole_[i].expanded = true;
    }
  }
  void Load() {
    for (size_t i = 0; i < whole_.size(); ++i) {
      if (storage_[i].empty()) continue;
      Unpack(*FindDtype(whole_[i].dtype), packed_[i].data, static_cast<int64_t>(storage_[i].size()),
             whole_[i].data);
    }
  }
  void Store() {
    for (size_t i = 0; i < whole_.size(); ++i) {
      if (storage_[i].empty()) continue;
      Pack(*FindDtype(whole_[i].dtype), whole_[i].data, static_cast<int64_t>(storage_[i].size()),
           packed_[i].data);
    }
  }
  const std::vector<Buffer>& whole() const { return whole_; }

 private:
  const std::vector<Buffer>& packed_;
  std::vector<Buffer> whole_;
  std::vector<std::vector<uint8_t>> storage_;
};

}  // namespace callbax
