// cairn_dpu._native: the service for Python. Translation only; the contract of every name is in
// dpu/cairn_dpu/_native.pyi. No call waits with the GIL held.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "base/clock.h"
#include "base/json.h"
#include "server/server.h"
#include "store/store.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

PyObject* cairn_error = nullptr;

[[noreturn]] void raise(const cairn::Error& error) {
  PyErr_SetString(cairn_error, error.message.c_str());
  throw nb::python_error();
}

template <class T>
T take_or_raise(cairn::Result<T> result) {
  if (!result.ok()) raise(result.error());
  return result.take();
}

std::unique_ptr<cairn::Drive> open_for_reading(const std::string& path) {
  cairn::DriveOptions options;
  options.read_only = true;
  return take_or_raise(cairn::open_drive(path, options));
}

void format(const std::string& path, uint64_t create_bytes, uint64_t segment_bytes, bool overwrite) {
  cairn::DriveOptions options;
  options.create = create_bytes > 0;
  options.create_bytes = create_bytes;
  cairn::FormatOptions how;
  how.segment_bytes = segment_bytes;
  how.overwrite = overwrite;
  cairn::Result<cairn::Unit> done = cairn::Unit{};
  {
    const nb::gil_scoped_release released;
    auto drive = cairn::open_drive(path, options);
    done = drive.ok() ? cairn::format_drive(*drive.value(), how, cairn::system_clock())
                      : cairn::Result<cairn::Unit>(drive.error());
  }
  take_or_raise(std::move(done));
}

std::string inspect(const std::string& path) {
  const auto drive = open_for_reading(path);
  cairn::Result<std::string> text = std::string();
  {
    const nb::gil_scoped_release released;
    text = cairn::inspect_drive(*drive);
  }
  return take_or_raise(std::move(text));
}

class PyProgress final : public cairn::CheckProgress {
 public:
  explicit PyProgress(nb::object callback) : callback_(std::move(callback)) {}
  bool advance(uint64_t done_bytes, uint64_t total_bytes) override {
    const uint64_t now = cairn::system_clock().now_ms();
    if (now - last_ms_ < kEveryMs && done_bytes < total_bytes) return true;
    last_ms_ = now;
    const nb::gil_scoped_acquire held;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    return callback_.is_none() || nb::cast<bool>(callback_(done_bytes, total_bytes));
  }

 private:
  static constexpr uint64_t kEveryMs = 200;
  nb::object callback_;
  uint64_t last_ms_ = 0;
};

std::string check(const std::string& path, nb::object progress) {
  const auto drive = open_for_reading(path);
  PyProgress report(std::move(progress));
  cairn::Result<cairn::CheckReport> checked = cairn::CheckReport{};
  {
    const nb::gil_scoped_release released;
    checked = cairn::check_drive(*drive, &report);
  }
  const cairn::CheckReport found = take_or_raise(std::move(checked));
  cairn::JsonWriter json;
  json.begin_object().number("segments", found.segments).number("records", found.records);
  json.number("payload_bytes", found.payload_bytes)
      .number("bad_records", found.bad_records)
      .number("bad_segments", found.bad_segments);
  json.begin_array("findings");
  for (const std::string& finding : found.findings) json.text({}, finding);
  return json.end_array().end_object().take();
}

struct PyServer {
  std::unique_ptr<cairn::Server> server;
};

void construct(PyServer* self, const std::vector<std::string>& drives, uint64_t slab_bytes, uint32_t credits,
               uint64_t session_window_bytes, uint32_t sessions_most, uint64_t idle_timeout_ms,
               uint64_t stall_timeout_ms, uint64_t handshake_timeout_ms, bool read_only, uint32_t queue_depth) {
  cairn::ServerOptions options;
  options.drives = drives;
  options.slab_bytes = slab_bytes;
  options.read_only = read_only;
  options.queue_depth = queue_depth;
  options.reactor.credits = credits;
  options.reactor.session_window_bytes = session_window_bytes;
  options.reactor.sessions_most = sessions_most;
  options.reactor.idle_timeout_ms = idle_timeout_ms;
  options.reactor.stall_timeout_ms = stall_timeout_ms;
  options.reactor.handshake_timeout_ms = handshake_timeout_ms;
  cairn::Result<std::unique_ptr<cairn::Server>> opened = cairn::Error{};
  {
    const nb::gil_scoped_release released;
    opened = cairn::Server::open(options);
  }
  new (self) PyServer{take_or_raise(std::move(opened))};
}

bool stop(PyServer& self, uint64_t drain_ms) {
  const nb::gil_scoped_release released;
  return self.server->stop(drain_ms);
}

std::string stats(PyServer& self) {
  const nb::gil_scoped_release released;
  return self.server->stats();
}

nb::list status_table() {
  nb::list rows;
  for (const cairn::StatusRow& row : cairn::kStatusTable) {
    rows.append(
        nb::make_tuple(static_cast<int>(row.status), std::string(row.name), row.http, std::string(row.sentence)));
  }
  return rows;
}

}  // namespace

NB_MODULE(_native, m) {
  // A process that ends with an object alive is no bug of ours to report to its user.
  nb::set_leak_warnings(false);
  cairn_error = PyErr_NewException("cairn_dpu._native.CairnError", nullptr, nullptr);
  m.attr("CairnError") = nb::borrow(cairn_error);
  m.def("version", [] { return CAIRN_VERSION; });
  m.def("status_table", &status_table);
  m.def("format_drive", &format, "path"_a, nb::kw_only(), "create_bytes"_a = 0, "segment_bytes"_a = 0,
        "overwrite"_a = false);
  m.def("is_formatted", [](const std::string& path) { return take_or_raise(cairn::is_formatted(path)); }, "path"_a);
  m.def("inspect_drive", &inspect, "path"_a);
  m.def("check_drive", &check, "path"_a, "progress"_a = nb::none());
  nb::class_<PyServer>(m, "Server", nb::is_final())
      .def("__init__", &construct, "drives"_a, nb::kw_only(), "slab_bytes"_a, "credits"_a, "session_window_bytes"_a,
           "sessions_most"_a, "idle_timeout_ms"_a, "stall_timeout_ms"_a, "handshake_timeout_ms"_a,
           "read_only"_a = false, "queue_depth"_a = 128)
      .def(
          "listen", [](PyServer& self, const std::string& url) { return take_or_raise(self.server->listen(url)); },
          "url"_a)
      .def("start", [](PyServer& self) { self.server->start(); })
      .def("stop", &stop, "drain_ms"_a)
      .def("running", [](PyServer& self) { return self.server->running(); })
      .def("stats", &stats);
}
