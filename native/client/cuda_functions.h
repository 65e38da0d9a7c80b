// The functions of NVIDIA's driver library (libcuda.so.1) that the client calls, and the numbers that it gives them.
// Written from the public documentation of the CUDA driver API; where a function has a second version, its name in the
// library ends in _v2. Nothing of CUDA is needed to build.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace cairn::cuda {

using Code = int;          // CUresult
using Device = int;        // CUdevice
using Address = uint64_t;  // CUdeviceptr
using Context = void*;     // CUcontext
using Stream = void*;      // CUstream
static_assert(sizeof(Address) == sizeof(void*), "an address of a device is an address of the process");
static_assert(std::is_pointer_v<Context> && std::is_pointer_v<Stream>, "handles are passed as pointers are");

inline constexpr Code kSuccess = 0;
inline constexpr Code kInvalidValue = 1;
inline constexpr Code kNoDevice = 100;
inline constexpr Code kInvalidContext = 201;
inline constexpr Code kNotSupported = 801;

// CUpointer_attribute
inline constexpr int kPointerMemoryType = 2;
inline constexpr int kPointerSyncMemops = 6;
inline constexpr int kPointerIsManaged = 8;
inline constexpr int kPointerDeviceOrdinal = 9;
// CUmemorytype
inline constexpr unsigned kMemoryHost = 1;
inline constexpr unsigned kMemoryDevice = 2;
// CUdevice_attribute
inline constexpr int kDeviceFlushWritesOptions = 117;
inline constexpr int kDeviceWritesOrdering = 118;
inline constexpr int kDeviceDmaBufSupported = 124;

inline constexpr int kFlushByHost = 1;        // a bit of kDeviceFlushWritesOptions
inline constexpr int kOrderedForOwner = 100;  // of kDeviceWritesOrdering: the device itself sees remote writes in order
inline constexpr int kFlushToOwner = 100;     // CUflushGPUDirectRDMAWritesScope
inline constexpr int kFlushCurrentContext = 0;  // CUflushGPUDirectRDMAWritesTarget
inline constexpr int kRangeDmaBuf = 1;          // CUmemRangeHandleType
inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kHostPortable = 1;
static_assert(kFlushToOwner == kOrderedForOwner, "how far a flush reaches is counted as how far the order does");

struct Functions {
  Code (*init)(unsigned flags) = nullptr;
  Code (*driver_version)(int* version) = nullptr;
  Code (*device_count)(int* count) = nullptr;
  Code (*device_get)(Device* device, int ordinal) = nullptr;
  Code (*device_attribute)(int* value, int attribute, Device device) = nullptr;
  Code (*primary_retain)(Context* context, Device device) = nullptr;
  Code (*push_current)(Context context) = nullptr;
  Code (*pop_current)(Context* context) = nullptr;
  Code (*pointer_attribute)(void* value, int attribute, Address address) = nullptr;
  Code (*set_pointer_attribute)(const void* value, int attribute, Address address) = nullptr;
  Code (*range_handle)(void* handle, Address address, size_t bytes, int type, unsigned long long flags) = nullptr;
  Code (*host_register)(void* base, size_t bytes, unsigned flags) = nullptr;
  Code (*host_unregister)(void* base) = nullptr;
  Code (*stream_create)(Stream* stream, unsigned flags) = nullptr;
  Code (*stream_synchronize)(Stream stream) = nullptr;
  Code (*copy_to_host)(void* to, Address from, size_t bytes, Stream stream) = nullptr;
  Code (*copy_to_device)(Address to, const void* from, size_t bytes, Stream stream) = nullptr;
  Code (*error_string)(Code code, const char** text) = nullptr;
  Code (*flush_remote_writes)(int target, int scope) = nullptr;  // nullptr: the driver is older than 11.3
};

}  // namespace cairn::cuda
