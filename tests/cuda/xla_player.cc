// XLA's part towards a handler, without XLA: programs of one call, whose frames are made by hand.
//
// It shows a handler what no compiler writes: attributes that do not fit, devices that have no stream. A
// frame and its buffers' shapes have memory of their own, of just their size, and end with the call.
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "xla/ffi/api/c_api.h"

struct XLA_FFI_Error {
  XLA_FFI_Error_Code code;
  std::string message;
};

namespace {

// What XLA's functions tell a handler of its call: what its type, which has another name from jaxlib 0.12 on,
// stands for.
struct Context {
  void* stream = nullptr;
  int32_t device = 0;
  void* state = nullptr;
};

template <class Args>
Context& Of(Args* args) {
  return *reinterpret_cast<Context*>(args->ctx);
}

XLA_FFI_Error* NewError(XLA_FFI_Error_Create_Args* args) {
  return new XLA_FFI_Error{args->errc, args->message};
}
void DeleteError(XLA_FFI_Error_Destroy_Args* args) { delete args->error; }

template <class Args>
XLA_FFI_Error* Lacks(Args*) {
  return new XLA_FFI_Error{XLA_FFI_Error_Code_UNIMPLEMENTED, "the player has none"};
}
XLA_FFI_Error* GetStream(XLA_FFI_Stream_Get_Args* args) {
  if (Of(args).stream == nullptr) return Lacks(args);
  args->stream = Of(args).stream;
  return nullptr;
}
XLA_FFI_Error* GetDevice(XLA_FFI_DeviceOrdinal_Get_Args* args) {
  args->device_ordinal = Of(args).device;
  return nullptr;
}
XLA_FFI_Error* SetState(XLA_FFI_State_Set_Args* args) {
  Of(args).state = args->state;
  return nullptr;
}
XLA_FFI_Error* GetState(XLA_FFI_State_Get_Args* args) {
  args->state = Of(args).state;
  return nullptr;
}

const XLA_FFI_Api* Api() {
  static const XLA_FFI_Api api = [] {
    XLA_FFI_Api made{};
    made.struct_size = XLA_FFI_Api_STRUCT_SIZE;
    made.XLA_FFI_Error_Create = NewError;
    made.XLA_FFI_Error_Destroy = DeleteError;
    made.XLA_FFI_State_Set = SetState;
    made.XLA_FFI_State_Get = GetState;
    made.XLA_FFI_Stream_Get = GetStream;
    made.XLA_FFI_DeviceOrdinal_Get = GetDevice;
    made.XLA_FFI_RunId_Get = Lacks;
    made.XLA_FFI_Future_Create = Lacks;
    made.XLA_FFI_ThreadPool_NumThreads = Lacks;
    made.XLA_FFI_ThreadPool_Schedule = Lacks;
    return made;
  }();
  return &api;
}

// An attribute's bytes, and what XLA has them in.
struct Attribute {
  XLA_FFI_AttrType type;
  std::vector<char> bytes;
  XLA_FFI_ByteSpan string{};
  XLA_FFI_Scalar scalar{};
  XLA_FFI_Array array{};

  void* Written(XLA_FFI_DataType dtype, size_t count) {
    string = {bytes.data(), bytes.size()};
    scalar = {dtype, bytes.data()};
    array = {dtype, count, bytes.data()};
    if (type == XLA_FFI_AttrType_STRING) return &string;
    return type == XLA_FFI_AttrType_SCALAR ? static_cast<void*>(&scalar) : &array;
  }
};

}  // namespace

// A program of one call.
struct Program {
  XLA_FFI_Handler* instantiate;
  XLA_FFI_Handler* execute;
  void (*deletes_state)(void*);
  void* state = nullptr;
  std::map<std::string, Attribute> attributes{};  // sorted by name, as XLA's are
  std::vector<XLA_FFI_AttrType> types{};
  std::deque<XLA_FFI_ByteSpan> names{};
  std::vector<XLA_FFI_ByteSpan*> name_pointers{};
  std::vector<void*> values{};
};

struct PlayedBuffer {
  int32_t dtype;
  int64_t rank;
  const int64_t* dims;
  void* data;
};

namespace {

int Tell(XLA_FFI_Error* error, char* message, size_t size) {
  if (error == nullptr) return 0;
  const std::unique_ptr<XLA_FFI_Error> owned(error);
  std::strncpy(message, error->message.c_str(), size - 1);
  return error->code;
}

int Play(Program* program, XLA_FFI_Handler* handler, XLA_FFI_ExecutionStage stage, Context context,
         std::vector<XLA_FFI_Buffer*> operands, std::vector<XLA_FFI_Buffer*> results, char* message,
         size_t size) {
  std::vector<XLA_FFI_ArgType> of_operands(operands.size(), XLA_FFI_ArgType_BUFFER);
  std::vector<XLA_FFI_RetType> of_results(results.size(), XLA_FFI_RetType_BUFFER);
  auto frame = std::make_unique<XLA_FFI_CallFrame>();
  frame->struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame->api = Api();
  frame->ctx = reinterpret_cast<decltype(frame->ctx)>(&context);
  frame->stage = stage;
  frame->args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, static_cast<int64_t>(operands.size()),
                 of_operands.data(), reinterpret_cast<void**>(operands.data())};
  frame->rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, static_cast<int64_t>(results.size()),
                 of_results.data(), reinterpret_cast<void**>(results.data())};
  frame->attrs = {XLA_FFI_Attrs_STRUCT_SIZE,
                  nullptr,
                  static_cast<int64_t>(program->values.size()),
                  program->types.data(),
                  program->name_pointers.data(),
                  program->values.data()};
  context.state = program->state;
  const int code = Tell(handler(frame.get()), message, size);
  program->state = context.state;
  return code;
}

}  // namespace

extern "C" {

Program* play_new(void* instantiate, void* execute, void* type_info) {
  return new Program{reinterpret_cast<XLA_FFI_Handler*>(instantiate),
                     reinterpret_cast<XLA_FFI_Handler*>(execute),
                     static_cast<XLA_FFI_TypeInfo*>(type_info)->deleter};
}

void play_attribute(Program* program, const char* name, int type, int dtype, const void* data,
                    size_t bytes, size_t count) {
  Attribute& attribute = program->attributes[name];
  attribute.type = static_cast<XLA_FFI_AttrType>(type);
  attribute.bytes.assign(static_cast<const char*>(data), static_cast<const char*>(data) + bytes);
  program->types.clear(), program->names.clear();
  program->name_pointers.clear(), program->values.clear();
  attribute.Written(static_cast<XLA_FFI_DataType>(dtype), count);
  for (auto& [key, of_key] : program->attributes) {
    program->names.push_back({key.data(), key.size()});
    program->name_pointers.push_back(&program->names.back());
    program->types.push_back(of_key.type);
    program->values.push_back(of_key.Written(of_key.array.dtype, of_key.array.size));
  }
}

// XLA's code of the error, whose message is written; 0: none.
int play_instantiate(Program* program, char* message, size_t size) {
  return Play(program, program->instantiate, XLA_FFI_ExecutionStage_INSTANTIATE, {}, {}, {},
              message, size);
}

// The buffers are those of the operands, and then those of the results.
int play_execute(Program* program, void* stream, int device, const PlayedBuffer* buffers,
                 int operands, int results, char* message, size_t size) {
  std::vector<std::unique_ptr<int64_t[]>> shapes;
  std::vector<std::unique_ptr<XLA_FFI_Buffer>> made;
  std::vector<XLA_FFI_Buffer*> all[2];
  for (int i = 0; i < operands + results; ++i) {
    const PlayedBuffer& of = buffers[i];
    shapes.push_back(std::make_unique<int64_t[]>(of.rank));
    std::copy(of.dims, of.dims + of.rank, shapes.back().get());
    made.push_back(std::make_unique<XLA_FFI_Buffer>(
        XLA_FFI_Buffer{XLA_FFI_Buffer_STRUCT_SIZE, nullptr, static_cast<XLA_FFI_DataType>(of.dtype),
                       of.data, of.rank, shapes.back().get()}));
    all[i >= operands].push_back(made.back().get());
  }
  Context context;
  context.stream = stream;
  context.device = device;
  return Play(program, program->execute, XLA_FFI_ExecutionStage_EXECUTE, context, all[0], all[1],
              message, size);
}

void play_delete(Program* program) {
  if (program->state != nullptr) program->deletes_state(program->state);
  delete program;
}
}
