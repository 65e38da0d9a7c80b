// What Python objects lend: buffers, addresses, and lists of these.
#pragma once

#include <nanobind/nanobind.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "bindings/cairnkv_gil.h"
#include "client/gpu.h"

namespace cairn {

namespace nb = nanobind;

// Buffers borrowed from Python objects, given back when destroyed (with the GIL).
class Borrowed {
 public:
  Borrowed() = default;
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  ~Borrowed() { release(); }

  ByteSpan add(nb::handle object, bool writable) {
    Py_buffer& view = views_.emplace_back();
    const int flags = writable ? PyBUF_WRITABLE : PyBUF_SIMPLE;
    if (in_python([&] { return PyObject_GetBuffer(object.ptr(), &view, flags); }) != 0) {
      views_.pop_back();
      throw nb::python_error();
    }
    return {static_cast<std::byte*>(view.buf), static_cast<size_t>(view.len)};
  }
  void release() {
    CAIRN_CHECK(empty() || PyGILState_Check() == 1, "buffers are given back to Python without its lock");
    for (Py_buffer& view : views_) in_python([&view] { PyBuffer_Release(&view); });
    views_.clear();
    for (nb::object& one : kept_) {
      PyObject* object = one.release().ptr();
      in_python([object] { Py_DECREF(object); });
    }
    kept_.clear();
  }
  // Until then the object is not destroyed.
  void keep(nb::handle object) { kept_.push_back(nb::borrow(object)); }
  bool empty() const { return views_.empty() && kept_.empty(); }

 private:
  std::vector<Py_buffer> views_;
  std::vector<nb::object> kept_;
};

// Pieces of memory, and where they lie: as Operation has them.
struct Pieces {
  std::vector<iovec> parts;
  std::vector<int> gpus;  // as long as parts, or empty: all are the host's

  void add(void* base, size_t bytes, int gpu) {
    if (gpu != kHostMemory && gpus.empty()) gpus.assign(parts.size(), kHostMemory);
    parts.push_back({base, bytes});
    if (!gpus.empty() || gpu != kHostMemory) gpus.push_back(gpu);
    CAIRN_CHECK(gpus.empty() || gpus.size() == parts.size(),
                "it is known of some pieces of memory only where they are");
  }
};

inline bool is_address(nb::handle memory) {
  if (!nb::isinstance<nb::tuple>(memory) || nb::len(memory) != 2) return false;
  const auto pair = nb::borrow<nb::tuple>(memory);
  return nb::isinstance<nb::int_>(pair[0]) && nb::isinstance<nb::int_>(pair[1]);
}

// (address, nbytes, gpu, owner): memory that Gpu::find() found there; the owner, any object, is kept.
inline bool is_gpu_memory(nb::handle memory) {
  if (!nb::isinstance<nb::tuple>(memory) || nb::len(memory) != 4) return false;
  const auto four = nb::borrow<nb::tuple>(memory);
  return nb::isinstance<nb::int_>(four[0]) && nb::isinstance<nb::int_>(four[1]) && nb::isinstance<nb::int_>(four[2]);
}

inline void append_gpu_memory(nb::handle memory, Borrowed& borrowed, Pieces& pieces) {
  const auto four = nb::borrow<nb::tuple>(memory);
  const int gpu = nb::cast<int>(four[2]);
  if (Gpu::loaded() == nullptr || gpu < 0 || gpu >= Gpu::loaded()->count())
    throw nb::value_error("memory of a GPU that was not found: ask gpu_of() first");
  borrowed.keep(four[3]);
  pieces.add(reinterpret_cast<void*>(nb::cast<uintptr_t>(four[0])), nb::cast<size_t>(four[1]), gpu);
}

inline void append_memory(nb::handle memory, bool writable, Borrowed& borrowed, Pieces& pieces) {
  if (is_gpu_memory(memory)) return append_gpu_memory(memory, borrowed, pieces);
  if (is_address(memory)) {
    const auto pair = nb::borrow<nb::tuple>(memory);
    pieces.add(reinterpret_cast<void*>(nb::cast<uintptr_t>(pair[0])), nb::cast<size_t>(pair[1]), kHostMemory);
    return;
  }
  if (nb::isinstance<nb::tuple>(memory) || nb::isinstance<nb::list>(memory)) {
    for (const nb::handle extent : memory) append_memory(extent, writable, borrowed, pieces);
    return;
  }
  const ByteSpan bytes = borrowed.add(memory, writable);
  pieces.add(bytes.data(), bytes.size(), kHostMemory);
}

}  // namespace cairn
