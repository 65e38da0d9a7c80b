// What Python objects lend: buffers, addresses, and lists of these.
#pragma once

#include <nanobind/nanobind.h>
#include <sys/uio.h>

#include <vector>

#include "base/bytes.h"
#include "base/check.h"

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
    Py_buffer view;
    if (PyObject_GetBuffer(object.ptr(), &view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
      throw nb::python_error();
    views_.push_back(view);
    return {static_cast<std::byte*>(view.buf), static_cast<size_t>(view.len)};
  }
  void release() {
    CAIRN_CHECK(views_.empty() || PyGILState_Check() == 1, "buffers are given back to Python without its lock");
    for (Py_buffer& view : views_) PyBuffer_Release(&view);
    views_.clear();
  }

 private:
  std::vector<Py_buffer> views_;
};

inline bool is_address(nb::handle memory) {
  if (!nb::isinstance<nb::tuple>(memory) || nb::len(memory) != 2) return false;
  const auto pair = nb::borrow<nb::tuple>(memory);
  return nb::isinstance<nb::int_>(pair[0]) && nb::isinstance<nb::int_>(pair[1]);
}

inline void append_memory(nb::handle memory, bool writable, Borrowed& borrowed, std::vector<iovec>& parts) {
  if (is_address(memory)) {
    const auto pair = nb::borrow<nb::tuple>(memory);
    parts.push_back({reinterpret_cast<void*>(nb::cast<uintptr_t>(pair[0])), nb::cast<size_t>(pair[1])});
    return;
  }
  if (nb::isinstance<nb::tuple>(memory) || nb::isinstance<nb::list>(memory)) {
    for (const nb::handle extent : memory) append_memory(extent, writable, borrowed, parts);
    return;
  }
  const ByteSpan bytes = borrowed.add(memory, writable);
  parts.push_back({bytes.data(), bytes.size()});
}

}  // namespace cairn
