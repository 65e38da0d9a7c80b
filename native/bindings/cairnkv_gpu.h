// GPU memory for Python, besides what a client does with it. Translation only.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bindings/cairnkv_gil.h"
#include "bindings/cairnkv_memory.h"
#include "client/client.h"

namespace cairn {

inline nb::list gpu_region_rows(const std::vector<GpuRegionInfo>& found) {
  nb::list regions;
  for (const GpuRegionInfo& region : found) {
    nb::dict row;
    row["address"] = region.address;
    row["nbytes"] = region.bytes;
    row["device"] = region.gpu;
    row["transfer"] = region.reason.empty() ? "direct" : "bounced";
    row["reason"] = region.reason;
    regions.append(row);
  }
  return regions;
}

template <class T>
T take_or_raise(Result<T> result) {
  if (!result.ok()) throw nb::value_error(result.error().message.c_str());
  return result.take();
}

inline int gpu_of(uint64_t address, uint64_t nbytes, int gpu) {
  const PythonReleased released;
  return take_or_raise(take_or_raise(Gpu::load())->find(address, nbytes, gpu < 0 ? kAnyGpu : gpu));
}

inline void gpu_wait(int gpu, uint64_t stream) {
  const PythonReleased released;
  take_or_raise(take_or_raise(Gpu::load())->wait_for_stream(gpu, stream));
}

using GpuCopy = bool (Gpu::*)(int, std::span<const GpuPiece>, std::string&);

template <GpuCopy copy>
void gpu_copy(int gpu, uint64_t address, nb::handle buffer) {
  Borrowed borrowed;
  const ByteSpan host = borrowed.add(buffer, copy == &Gpu::copy_to_host);
  Gpu* driver = nullptr;
  std::string error;
  bool copied = false;
  {
    const PythonReleased released;
    driver = take_or_raise(Gpu::load());
    const GpuPiece piece{host.data(), address, host.size()};
    copied = host.empty() || (driver->*copy)(gpu, {&piece, 1}, error);
  }
  if (!copied) throw nb::value_error(error.c_str());
}

inline void bind_gpu(nb::module_& m) {
  m.def("gpu_of", &gpu_of, nb::arg("address"), nb::arg("nbytes"), nb::arg("gpu") = -1);
  m.def("gpu_wait", &gpu_wait, nb::arg("gpu"), nb::arg("stream"));
  m.def("gpu_read", &gpu_copy<&Gpu::copy_to_host>, nb::arg("gpu"), nb::arg("address"), nb::arg("buffer"));
  m.def("gpu_write", &gpu_copy<&Gpu::copy_to_device>, nb::arg("gpu"), nb::arg("address"), nb::arg("buffer"));
}

}  // namespace cairn
