// cairn_dpu._native: the service for Python. Translation only; the contract of every name is in
// dpu/cairn_dpu/_native.pyi. No call waits with the GIL held.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/json.h"
#include "base/shortage.h"
#include "drive/nvme_describe.h"
#include "server/server.h"
#include "store/store.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

PyObject* cairn_error = nullptr;

// What peers and paths had a part in may be any bytes: those that are no text are shown as \xff, and none is an error.
nb::object text_of(const std::string& bytes) {
  PyObject* text = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "backslashreplace");
  if (text == nullptr) throw nb::python_error();
  return nb::steal(text);
}

[[noreturn]] void raise(const cairn::Error& error) {
  CAIRN_CHECK(cairn_error != nullptr, "an error is raised before the module is ready");
  nb::object raised = nb::borrow(cairn_error)(text_of(error.message));
  raised.attr("system_errno") = error.system_errno;
  raised.attr("status") = error.status;
  PyErr_SetObject(cairn_error, raised.ptr());
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
  std::unique_ptr<cairn::Drive> drive = take_or_raise(cairn::open_drive(path, options));
  CAIRN_CHECK(drive != nullptr, "a drive was opened and lost");
  CAIRN_CHECK(drive->info().read_only, "a drive that is only looked at can be written");
  return drive;
}

// 16 bytes, or none for a drive of any fleet.
std::array<uint8_t, 16> fleet_from(nb::bytes given) {
  std::array<uint8_t, 16> fleet{};
  static_assert(sizeof(fleet) == sizeof(cairn::StoreOptions::fleet), "the store knows fleets of another length");
  if (given.size() == fleet.size()) std::memcpy(fleet.data(), given.c_str(), fleet.size());
  return fleet;
}

void format(const std::string& path, uint64_t create_bytes, uint64_t segment_bytes, bool overwrite, nb::bytes fleet) {
  cairn::DriveOptions options;
  options.create = create_bytes > 0;
  options.create_bytes = create_bytes;
  cairn::FormatOptions how;
  how.segment_bytes = segment_bytes;
  how.overwrite = overwrite;
  how.fleet = fleet_from(fleet);
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

std::string describe(const std::string& path) {
  cairn::Result<std::string> text = std::string();
  {
    const nb::gil_scoped_release released;
    text = cairn::describe_nvme(path);
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

cairn::Server& server_of(PyServer& self) {
  CAIRN_CHECK(self.server != nullptr, "Python holds a service that was not opened");
  return *self.server;
}

using Tenant = std::tuple<std::string, uint32_t, uint64_t, uint32_t, uint64_t, uint32_t>;
using Absent = std::tuple<std::string, std::string>;

std::vector<cairn::TenantOptions> tenants_from(const std::vector<Tenant>& given) {
  std::vector<cairn::TenantOptions> tenants;
  for (const auto& [name, number, quota_bytes, weight, in_flight_bytes, sessions_most] : given)
    tenants.push_back({number, name, quota_bytes, in_flight_bytes, weight, sessions_most});
  return tenants;
}

void construct(PyServer* self, const std::vector<std::string>& drives, const std::vector<Absent>& absent,
               bool require_all_drives, bool without_missing_drives, uint64_t missing_drives_wait_ms,
               bool wait_until_loaded, uint64_t slab_bytes, bool read_only, uint32_t queue_depth, uint32_t credits,
               uint64_t session_window_bytes, uint64_t shared_window_bytes, uint32_t sessions_most,
               uint32_t sessions_per_tenant_most, uint32_t sessions_per_peer_most, uint64_t idle_timeout_ms,
               uint64_t stall_timeout_ms, uint64_t handshake_timeout_ms, const std::vector<Tenant>& tenants,
               bool accept_unknown_tenants, uint32_t reinsert_percent, uint32_t reinsert_hits_least,
               bool admission_second_touch, uint64_t admission_bytes_per_day, uint64_t lease_ms_most,
               uint64_t scrub_bytes_per_second, nb::bytes fleet, int rdma_dscp, int rdma_service_level,
               uint32_t rdma_mtu_bytes) {
  cairn::ServerOptions options;
  options.drives = drives;
  for (const auto& [path, reason] : absent) options.absent.push_back({path, reason, 0});
  options.require_all_drives = require_all_drives;
  options.slab_bytes = slab_bytes;
  options.queue_depth = queue_depth;
  options.tenants = tenants_from(tenants);
  options.store.wait_until_loaded = wait_until_loaded;
  options.store.without_missing_drives = without_missing_drives;
  options.store.half_waits_ms = missing_drives_wait_ms;
  options.store.read_only = read_only;
  options.store.reinsert_percent = reinsert_percent;
  options.store.reinsert_hits_least = reinsert_hits_least;
  options.store.admission = {admission_second_touch, admission_bytes_per_day};
  options.store.lease_ms_most = lease_ms_most;
  options.store.scrub_bytes_per_second = scrub_bytes_per_second;
  options.store.fleet = fleet_from(fleet);
  options.rdma_path = {rdma_dscp, rdma_service_level, rdma_mtu_bytes};
  options.reactor.credits = credits;
  options.reactor.session_window_bytes = session_window_bytes;
  options.reactor.shared_window_bytes = shared_window_bytes;
  options.reactor.sessions_most = sessions_most;
  options.reactor.sessions_per_tenant_most = sessions_per_tenant_most;
  options.reactor.sessions_per_peer_most = sessions_per_peer_most;
  options.reactor.idle_timeout_ms = idle_timeout_ms;
  options.reactor.stall_timeout_ms = stall_timeout_ms;
  options.reactor.handshake_timeout_ms = handshake_timeout_ms;
  options.reactor.accept_unknown_tenants = accept_unknown_tenants;
  cairn::Result<std::unique_ptr<cairn::Server>> opened = cairn::Error{};
  {
    const nb::gil_scoped_release released;
    opened = cairn::Server::open(options);
  }
  new (self) PyServer{take_or_raise(std::move(opened))};
}

void start(PyServer& self) {
  try {
    server_of(self).start();
  } catch (const std::system_error& error) {
    raise(cairn::Error::from_errno(error.code().value(), "cannot start the thread of the reactor",
                                   cairn::advice_on_threads()));
  }
}

void resume_drive(PyServer& self, const std::string& uuid) {
  cairn::Result<cairn::Unit> done = cairn::Unit{};
  {
    const nb::gil_scoped_release released;
    done = server_of(self).resume_drive(uuid);
  }
  take_or_raise(std::move(done));
}

bool stop(PyServer& self, uint64_t drain_ms) {
  const nb::gil_scoped_release released;
  return server_of(self).stop(drain_ms);
}

std::string stats(PyServer& self) {
  const nb::gil_scoped_release released;
  return server_of(self).stats();
}

std::string attach_drive(PyServer& self, const std::string& path) {
  cairn::Result<std::string> uuid = std::string();
  {
    const nb::gil_scoped_release released;
    uuid = server_of(self).attach_drive(path);
  }
  return take_or_raise(std::move(uuid));
}

void drain_drive(PyServer& self, const std::string& uuid) {
  cairn::Result<cairn::Unit> done = cairn::Unit{};
  {
    const nb::gil_scoped_release released;
    done = server_of(self).drain_drive(uuid);
  }
  take_or_raise(std::move(done));
}

bool forget_absent_drive(PyServer& self, const std::string& path) {
  const nb::gil_scoped_release released;
  return server_of(self).forget_absent_drive(path);
}

void detach_drive(PyServer& self, const std::string& uuid, bool lose_what_is_left) {
  cairn::Result<cairn::Unit> done = cairn::Unit{};
  {
    const nb::gil_scoped_release released;
    done = server_of(self).detach_drive(uuid, lose_what_is_left);
  }
  take_or_raise(std::move(done));
}

void set_tenants(PyServer& self, const std::vector<Tenant>& tenants) {
  const std::vector<cairn::TenantOptions> wanted = tenants_from(tenants);
  cairn::Result<cairn::Unit> done = cairn::Unit{};
  {
    const nb::gil_scoped_release released;
    done = server_of(self).set_tenants(wanted);
  }
  take_or_raise(std::move(done));
}

nb::list absent_drives(PyServer& self) {
  std::vector<cairn::AbsentDrive> absent;
  {
    const nb::gil_scoped_release released;
    absent = server_of(self).absent_drives();
  }
  nb::list rows;
  for (const cairn::AbsentDrive& drive : absent)
    rows.append(nb::make_tuple(text_of(drive.path), text_of(drive.reason)));
  return rows;
}

nb::list complaints(PyServer& self) {
  std::vector<cairn::Complaint> complaints;
  {
    const nb::gil_scoped_release released;
    complaints = server_of(self).complaints();
  }
  nb::list rows;
  for (const cairn::Complaint& row : complaints)
    rows.append(nb::make_tuple(text_of(row.peer), static_cast<int>(row.status), text_of(row.reason), row.times));
  return rows;
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
  nb::dict members;
  members["system_errno"] = 0;
  members["status"] = 0;
  cairn_error = PyErr_NewException("cairn_dpu._native.CairnError", nullptr, members.ptr());
  m.attr("CairnError") = nb::borrow(cairn_error);
  m.def("version", [] { return CAIRN_VERSION; });
  m.def("status_table", &status_table);
  m.def("end_when_out_of_memory", &cairn::end_when_out_of_memory, "exit_status"_a);
  m.def("format_drive", &format, "path"_a, nb::kw_only(), "create_bytes"_a = 0, "segment_bytes"_a = 0,
        "overwrite"_a = false, "fleet"_a = nb::bytes("", 0));
  m.def("is_formatted", [](const std::string& path) { return take_or_raise(cairn::is_formatted(path)); }, "path"_a);
  m.def("inspect_drive", &inspect, "path"_a);
  m.def("describe_nvme", &describe, "path"_a);
  m.def("check_drive", &check, "path"_a, "progress"_a = nb::none());
  nb::class_<PyServer>(m, "Server", nb::is_final())
      .def("__init__", &construct, "drives"_a, nb::kw_only(), "absent"_a, "require_all_drives"_a,
           "without_missing_drives"_a, "missing_drives_wait_ms"_a, "wait_until_loaded"_a, "slab_bytes"_a, "read_only"_a,
           "queue_depth"_a, "credits"_a, "session_window_bytes"_a, "shared_window_bytes"_a, "sessions_most"_a,
           "sessions_per_tenant_most"_a, "sessions_per_peer_most"_a, "idle_timeout_ms"_a, "stall_timeout_ms"_a,
           "handshake_timeout_ms"_a, "tenants"_a, "accept_unknown_tenants"_a, "reinsert_percent"_a,
           "reinsert_hits_least"_a, "admission_second_touch"_a, "admission_bytes_per_day"_a, "lease_ms_most"_a,
           "scrub_bytes_per_second"_a, "fleet"_a, "rdma_dscp"_a, "rdma_service_level"_a, "rdma_mtu_bytes"_a)
      .def(
          "listen", [](PyServer& self, const std::string& url) { return take_or_raise(server_of(self).listen(url)); },
          "url"_a)
      .def("start", &start)
      .def("slab_remark", [](PyServer& self) { return server_of(self).slab_remark(); })
      .def("stop", &stop, "drain_ms"_a)
      .def("unsealed", [](PyServer& self) { return server_of(self).unsealed(); })
      .def("running", [](PyServer& self) { return server_of(self).running(); })
      .def("stats", &stats)
      .def("absent_drives", &absent_drives)
      .def("complaints", &complaints)
      .def("attach_drive", &attach_drive, "path"_a)
      .def("resume_drive", &resume_drive, "uuid"_a)
      .def("drain_drive", &drain_drive, "uuid"_a)
      .def("forget_absent_drive", &forget_absent_drive, "path"_a)
      .def("detach_drive", &detach_drive, "uuid"_a, nb::kw_only(), "lose_what_is_left"_a)
      .def("set_tenants", &set_tenants, "tenants"_a);
}
