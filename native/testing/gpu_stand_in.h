// The stand-in of NVIDIA's driver for native tests (testing/cuda_stand_in.cc), loaded before the client looks for one.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "client/gpu.h"

namespace cairn {

class GpuStandIn {
 public:
  explicit GpuStandIn(const char* path) : handle_(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
    CAIRN_CHECK(handle_ != nullptr, "the stand-in of the driver cannot be loaded");
    auto loaded = Gpu::load();
    CAIRN_CHECK(loaded.ok(), "the client does not take the stand-in of the driver");
    driver = loaded.value();
  }

  Gpu* driver;

  // Memory of a GPU; never freed.
  uint64_t allocate(int gpu, size_t bytes) {
    cuda::Context context = reinterpret_cast<cuda::Context>(static_cast<uintptr_t>(gpu) + 1);
    cuda::Address address = 0;
    function<int (*)(cuda::Context)>("cuCtxPushCurrent_v2")(context);
    const int code = function<int (*)(cuda::Address*, size_t)>("cuMemAlloc_v2")(&address, bytes);
    function<int (*)(cuda::Context*)>("cuCtxPopCurrent_v2")(&context);
    CAIRN_CHECK(code == cuda::kSuccess, "the stand-in gives no memory");
    return address;
  }
  void write(int gpu, uint64_t address, std::vector<std::byte> bytes) {
    std::string error;
    const GpuPiece piece{bytes.data(), address, bytes.size()};
    EXPECT_TRUE(driver->copy_to_device(gpu, {&piece, 1}, error)) << error;
  }
  std::vector<std::byte> read(int gpu, uint64_t address, size_t length) {
    std::vector<std::byte> bytes(length);
    std::string error;
    const GpuPiece piece{bytes.data(), address, length};
    EXPECT_TRUE(driver->copy_to_host(gpu, {&piece, 1}, error)) << error;
    return bytes;
  }

  void fail(const char* name, int code, int times) {
    function<void (*)(const char*, int, int)>("stand_in_fail")(name, code, times);
  }
  void attribute(int which, int value) { function<void (*)(int, int)>("stand_in_attribute")(which, value); }
  int calls(const char* name) { return function<int (*)(const char*)>("stand_in_calls")(name); }
  int pinned() { return function<int (*)()>("stand_in_pinned")(); }

 private:
  template <class Function>
  Function function(const char* name) {
    void* found = dlsym(handle_, name);
    CAIRN_CHECK(found != nullptr, "the stand-in has no such function");
    return reinterpret_cast<Function>(found);
  }
  void* handle_;
};

}  // namespace cairn
