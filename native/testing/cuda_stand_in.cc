// A stand-in for NVIDIA's driver library, for tests on machines without a GPU: built as a shared library that calls
// itself libcuda.so.1, so that whoever loads it first has the client find it under that name. It says nothing about a
// real GPU.
//
// What it is good for: memory of its "GPUs" lies at addresses that this process cannot touch (mapped without any right;
// copies go through a second mapping elsewhere). Host code that reads or writes through such an address ends the
// process. Asynchronous copies are done when their stream is waited for and not before, and every call that needs a
// current context fails without one.
//
// Tests steer it by the functions that begin with stand_in_.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "client/cuda_functions.h"

#define CAIRN_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace cairn::cuda;

constexpr int kDevices = 3;
constexpr size_t kPageBytes = 4096;
constexpr Code kInvalidDevice = 101;
constexpr Code kInvalidHandle = 400;
constexpr Code kAlreadyRegistered = 712;
constexpr Code kNotRegistered = 713;

struct Allocation {
  size_t bytes = 0;
  int device = 0;
  std::byte* readable = nullptr;  // the same pages, where this process may touch them
  int descriptor = -1;
};

struct World {
  std::mutex lock;
  std::map<Address, Allocation> memory;
  std::map<uintptr_t, size_t> pinned;
  std::map<std::string, int> calls;
  std::map<std::string, std::pair<Code, int>> failures;  // what, how many times
  std::map<int, int> attributes = {{kDeviceDmaBufSupported, 1}, {kDeviceWritesOrdering, kOrderedForOwner}};
  std::map<Stream, std::vector<std::function<void()>>> streams;
  uintptr_t next_stream = 0x1000;
};

World& world() {
  static World* one = new World;  // outlives whoever calls at the end of the process
  return *one;
}

thread_local std::vector<int> contexts;  // of this thread: device + 1 each, the current one last

// Counts the call; what it is to fail with.
Code called(const char* name) {
  World& all = world();
  ++all.calls[name];
  const auto planned = all.failures.find(name);
  if (planned == all.failures.end() || planned->second.second == 0) return kSuccess;
  --planned->second.second;
  return planned->second.first;
}

// The allocation that holds all of [address, address + bytes), or nullptr.
const Allocation* holding(Address address, size_t bytes, Address* base = nullptr) {
  auto after = world().memory.upper_bound(address);
  if (after == world().memory.begin()) return nullptr;
  --after;
  const Address offset = address - after->first;
  if (offset >= after->second.bytes || bytes > after->second.bytes - offset) return nullptr;
  if (base != nullptr) *base = after->first;
  return &after->second;
}

Code enqueue_copy(const char* name, void* host, Address address, size_t bytes, Stream stream, bool to_host) {
  const std::lock_guard<std::mutex> held(world().lock);
  if (const Code code = called(name); code != kSuccess) return code;
  if (contexts.empty()) return kInvalidContext;
  const auto queue = world().streams.find(stream);
  if (queue == world().streams.end()) return kInvalidHandle;
  Address base = 0;
  const Allocation* found = holding(address, bytes, &base);
  if (found == nullptr || holding(reinterpret_cast<Address>(host), 1) != nullptr) return kInvalidValue;
  std::byte* there = found->readable + (address - base);
  queue->second.push_back([=] { to_host ? std::memcpy(host, there, bytes) : std::memcpy(there, host, bytes); });
  return kSuccess;
}

}  // namespace

// --- what tests ask for ----------------------------------------------------------------------------------

// The next `times` calls of the function end with the code.
CAIRN_EXPORT void stand_in_fail(const char* name, int code, int times) {
  const std::lock_guard<std::mutex> held(world().lock);
  world().failures[name] = {code, times};
}

CAIRN_EXPORT int stand_in_calls(const char* name) {
  const std::lock_guard<std::mutex> held(world().lock);
  return world().calls[name];
}

CAIRN_EXPORT void stand_in_attribute(int attribute, int value) {
  const std::lock_guard<std::mutex> held(world().lock);
  world().attributes[attribute] = value;
}

// How many pieces of host memory are pinned.
CAIRN_EXPORT int stand_in_pinned() {
  const std::lock_guard<std::mutex> held(world().lock);
  return static_cast<int>(world().pinned.size());
}

// --- the driver ------------------------------------------------------------------------------------------

CAIRN_EXPORT Code cuInit(unsigned) {
  const std::lock_guard<std::mutex> held(world().lock);
  return called("cuInit");
}

CAIRN_EXPORT Code cuDriverGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}

CAIRN_EXPORT Code cuDeviceGetCount(int* count) {
  const std::lock_guard<std::mutex> held(world().lock);
  *count = kDevices;
  return called("cuDeviceGetCount");
}

CAIRN_EXPORT Code cuDeviceGet(Device* device, int ordinal) {
  if (ordinal < 0 || ordinal >= kDevices) return kInvalidDevice;
  *device = ordinal;
  return kSuccess;
}

CAIRN_EXPORT Code cuDeviceGetAttribute(int* value, int attribute, Device) {
  const std::lock_guard<std::mutex> held(world().lock);
  *value = world().attributes[attribute];
  return kSuccess;
}

CAIRN_EXPORT Code cuDevicePrimaryCtxRetain(Context* context, Device device) {
  const std::lock_guard<std::mutex> held(world().lock);
  *context = reinterpret_cast<Context>(static_cast<uintptr_t>(device) + 1);
  return called("cuDevicePrimaryCtxRetain");
}

CAIRN_EXPORT Code cuCtxPushCurrent_v2(Context context) {
  contexts.push_back(static_cast<int>(reinterpret_cast<uintptr_t>(context)));
  return kSuccess;
}

CAIRN_EXPORT Code cuCtxPopCurrent_v2(Context* context) {
  if (contexts.empty()) return kInvalidContext;
  *context = reinterpret_cast<Context>(static_cast<uintptr_t>(contexts.back()));
  contexts.pop_back();
  return kSuccess;
}

CAIRN_EXPORT Code cuPointerGetAttribute(void* value, int attribute, Address address) {
  const std::lock_guard<std::mutex> held(world().lock);
  const Allocation* found = holding(address, 1);
  if (found == nullptr) return kInvalidValue;
  const int shown = attribute == kPointerDeviceOrdinal ? found->device
                    : attribute == kPointerMemoryType  ? static_cast<int>(kMemoryDevice)
                                                       : 0;
  std::memcpy(value, &shown, sizeof(shown));
  return kSuccess;
}

CAIRN_EXPORT Code cuPointerSetAttribute(const void*, int, Address address) {
  const std::lock_guard<std::mutex> held(world().lock);
  (void)called("cuPointerSetAttribute");
  return holding(address, 1) == nullptr ? kInvalidValue : kSuccess;
}

// What it gives is no dma-buf but a memfd: a kernel refuses it, and a test that takes the kernel's part can map it.
CAIRN_EXPORT Code cuMemGetHandleForAddressRange(void* handle, Address address, size_t bytes, int type,
                                                unsigned long long) {
  const std::lock_guard<std::mutex> held(world().lock);
  if (const Code code = called("cuMemGetHandleForAddressRange"); code != kSuccess) return code;
  if (contexts.empty()) return kInvalidContext;
  Address base = 0;
  const Allocation* found = holding(address, 1, &base);
  if (type != kRangeDmaBuf || address % kPageBytes != 0 || bytes % kPageBytes != 0) return kInvalidValue;
  if (found == nullptr || address != base) return kInvalidValue;
  const int descriptor = dup(found->descriptor);
  std::memcpy(handle, &descriptor, sizeof(descriptor));
  return kSuccess;
}

CAIRN_EXPORT Code cuMemHostRegister_v2(void* base, size_t bytes, unsigned) {
  const std::lock_guard<std::mutex> held(world().lock);
  if (const Code code = called("cuMemHostRegister_v2"); code != kSuccess) return code;
  if (contexts.empty()) return kInvalidContext;
  return world().pinned.emplace(reinterpret_cast<uintptr_t>(base), bytes).second ? kSuccess : kAlreadyRegistered;
}

CAIRN_EXPORT Code cuMemHostUnregister(void* base) {
  const std::lock_guard<std::mutex> held(world().lock);
  return world().pinned.erase(reinterpret_cast<uintptr_t>(base)) == 1 ? kSuccess : kNotRegistered;
}

CAIRN_EXPORT Code cuStreamCreate(Stream* stream, unsigned) {
  const std::lock_guard<std::mutex> held(world().lock);
  if (contexts.empty()) return kInvalidContext;
  *stream = reinterpret_cast<Stream>(world().next_stream++);
  world().streams[*stream];
  return called("cuStreamCreate");
}

CAIRN_EXPORT Code cuStreamSynchronize(Stream stream) {
  const std::lock_guard<std::mutex> held(world().lock);
  const Code code = called("cuStreamSynchronize");
  const auto queue = world().streams.find(stream);
  const bool ours = reinterpret_cast<uintptr_t>(stream) <= 2;  // the default streams
  if (queue == world().streams.end()) return ours ? code : kInvalidHandle;
  for (const auto& copy : queue->second) {
    if (code == kSuccess) copy();
  }
  queue->second.clear();
  return code;
}

CAIRN_EXPORT Code cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream stream) {
  return enqueue_copy("cuMemcpyDtoHAsync_v2", to, from, bytes, stream, true);
}

CAIRN_EXPORT Code cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream stream) {
  return enqueue_copy("cuMemcpyHtoDAsync_v2", const_cast<void*>(from), to, bytes, stream, false);
}

CAIRN_EXPORT Code cuFlushGPUDirectRDMAWrites(int, int) {
  const std::lock_guard<std::mutex> held(world().lock);
  return contexts.empty() ? kInvalidContext : called("cuFlushGPUDirectRDMAWrites");
}

CAIRN_EXPORT Code cuGetErrorString(Code code, const char** text) {
  *text = code == kNotSupported ? "operation not supported" : "an error of the stand-in";
  return kSuccess;
}

CAIRN_EXPORT Code cuMemAlloc_v2(Address* address, size_t bytes) {
  const std::lock_guard<std::mutex> held(world().lock);
  if (contexts.empty()) return kInvalidContext;
  const size_t whole = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  const int descriptor = memfd_create("cuda-stand-in", MFD_CLOEXEC);
  if (descriptor < 0 || ftruncate(descriptor, static_cast<off_t>(whole)) != 0) return kInvalidValue;
  void* untouchable = mmap(nullptr, whole, PROT_NONE, MAP_SHARED, descriptor, 0);
  void* readable = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (untouchable == MAP_FAILED || readable == MAP_FAILED) return kInvalidValue;
  *address = reinterpret_cast<Address>(untouchable);
  world().memory[*address] = {bytes, contexts.back() - 1, static_cast<std::byte*>(readable), descriptor};
  return kSuccess;
}

CAIRN_EXPORT Code cuMemFree_v2(Address address) {
  const std::lock_guard<std::mutex> held(world().lock);
  const auto found = world().memory.find(address);
  if (found == world().memory.end()) return kInvalidValue;
  const Allocation& gone = found->second;
  const size_t whole = (gone.bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  munmap(reinterpret_cast<void*>(address), whole);
  munmap(gone.readable, whole);
  close(gone.descriptor);
  world().memory.erase(found);
  return kSuccess;
}
