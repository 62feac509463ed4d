// DLPack's structures, as https://dmlc.github.io/dlpack fixes them for all libraries (version 1).
#pragma once

#include <cstdint>

namespace callbax {

struct DlpackDevice {
  int32_t type;
  int32_t id;
};

constexpr int32_t kDlpackCpu = 1;
constexpr int32_t kDlpackCuda = 2;
constexpr int32_t kDlpackCudaHost = 3;

struct DlpackType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct DlpackTensor {
  void* data;
  DlpackDevice device;
  int32_t rank;
  DlpackType type;
  int64_t* shape;
  int64_t* strides;  // in elements; null: C order
  uint64_t byte_offset;
};

struct DlpackManaged {
  DlpackTensor tensor;
  void* context;
  void (*deleter)(DlpackManaged*);
};

struct DlpackVersion {
  uint32_t major;
  uint32_t minor;
};

constexpr DlpackVersion kDlpackVersion{1, 0};
constexpr uint64_t kDlpackReadOnly = 1;

struct DlpackManagedVersioned {
  DlpackVersion version;
  void* context;
  void (*deleter)(DlpackManagedVersioned*);
  uint64_t flags;
  DlpackTensor tensor;
};

// The names of capsules that hold a DlpackManaged or a DlpackManagedVersioned which nobody has taken out.
constexpr char kDlpackName[] = "dltensor";
constexpr char kDlpackVersionedName[] = "dltensor_versioned";

// From XLA's code of a type, and to it. Throw Python's BufferError if there is no such type.
DlpackType DlpackTypeOf(int code);
int CodeOfDlpack(const DlpackType& type);

}  // namespace callbax
