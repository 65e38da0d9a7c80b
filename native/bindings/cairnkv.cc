// cairnkv._native: the client for Python. Translation only; the contract of every name is in
// cairnkv/_native.pyi. No call waits with the GIL held.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/crc32c.h"
#include "base/pattern.h"
#include "base/streaming_copy.h"
#include "bindings/cairnkv_gil.h"
#include "bindings/cairnkv_gpu.h"
#include "bindings/cairnkv_memory.h"
#include "bindings/cairnkv_region.h"
#include "client/client.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using cairn::append_memory;
using cairn::Borrowed;
using cairn::ByteSpan;
using cairn::client_of;
using cairn::ConstByteSpan;
using cairn::FrameType;
using cairn::Pieces;
using cairn::PyClient;
using cairn::PyRegion;
using cairn::PythonReleased;
using cairn::SignalsHandled;

PyObject* connect_error = nullptr;

class PyOperation {
 public:
  PyOperation(nb::object owner, std::shared_ptr<cairn::Operation> operation, std::unique_ptr<Borrowed> borrowed)
      : owner_(std::move(owner)),
        client_(&client_of(owner_)),
        operation_(std::move(operation)),
        borrowed_(std::move(borrowed)) {
    CAIRN_CHECK(operation_ != nullptr, "Python is given no operation");
    CAIRN_CHECK(operation_->id != 0, "Python is given an operation that was not submitted");
  }
  PyOperation(PyOperation&&) = default;
  ~PyOperation() {
    if (operation_ == nullptr) return;
    // What a parent began is never looked at again: another thread may have been in the middle of it.
    if (client_->inherited()) (void)new std::shared_ptr<cairn::Operation>(std::move(operation_));
    if (operation_ == nullptr || operation_->done()) return;
    const PythonReleased released;
    client_->cancel(*operation_);  // the buffers are about to be given back
  }

  uint64_t id() const { return operation_->id; }
  bool done() { return client_->done(*operation_); }
  void wait() {
    if (!done()) {
      SignalsHandled call;
      bool interrupted = false;
      while (!interrupted && !client_->wait(*operation_, cairn::Interruption::kEveryMs)) interrupted = call.requested();
      if (interrupted) client_->cancel(*operation_, &call);
      call.resume();
      borrowed_.reset();
      call.finish();
    }
    borrowed_.reset();
  }
  void cancel() {
    if (!done()) {
      SignalsHandled call;
      client_->cancel(*operation_, &call);
      call.resume();
      borrowed_.reset();
      call.finish();
    }
    borrowed_.reset();
  }
  const cairn::Operation& settled() {
    if (!done()) throw nb::value_error("the operation is still in flight: wait() first");
    return *operation_;
  }

 private:
  nb::object owner_;
  cairn::Client* client_;
  std::shared_ptr<cairn::Operation> operation_;
  std::unique_ptr<Borrowed> borrowed_;
};

int region_getbuffer(PyObject* self, Py_buffer* view, int flags) {
  try {
    PyRegion* region = nb::inst_ptr<PyRegion>(self);
    const ByteSpan bytes = region->exported();
    if (PyBuffer_FillInfo(view, self, bytes.data(), static_cast<Py_ssize_t>(bytes.size()), 0, flags) == 0) return 0;
    region->returned();
  } catch (const nb::builtin_exception& error) {
    PyErr_SetString(PyExc_BufferError, error.what());
  }
  view->obj = nullptr;
  return -1;
}

void region_releasebuffer(PyObject* self, Py_buffer*) {
  nb::inst_ptr<PyRegion>(self)->returned();
}

PyType_Slot region_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(region_getbuffer)},
                              {Py_bf_releasebuffer, reinterpret_cast<void*>(region_releasebuffer)},
                              {0, nullptr}};

// --- calls -----------------------------------------------------------------------------------------------

cairn::Key key_of(nb::handle object) {
  if (!nb::isinstance<nb::bytes>(object)) throw nb::type_error("a key is a bytes object of 16");
  const auto bytes = nb::borrow<nb::bytes>(object);
  cairn::Key key;
  if (bytes.size() != key.bytes.size()) throw nb::value_error("a key is a bytes object of 16");
  std::memcpy(key.bytes.data(), bytes.data(), key.bytes.size());
  return key;
}

std::shared_ptr<cairn::Operation> begin(FrameType type, nb::handle keys, uint64_t layout, uint32_t deadline_ms) {
  auto operation = std::make_shared<cairn::Operation>();
  operation->type = type;
  operation->layout = layout;
  operation->deadline_ms = deadline_ms;
  operation->keys.reserve(nb::len(keys));
  for (const nb::handle key : keys) operation->keys.push_back(key_of(key));
  return operation;
}

PyOperation send(nb::object self, std::shared_ptr<cairn::Operation> operation, std::unique_ptr<Borrowed> borrowed) {
  cairn::Client& client = client_of(self);
  SignalsHandled call;
  client.submit(operation, &call);
  call.finish();
  return {std::move(self), std::move(operation), std::move(borrowed)};
}

std::unique_ptr<Borrowed> attach(cairn::Operation& operation, nb::handle memories, bool writable) {
  if (nb::len(memories) != operation.keys.size()) throw nb::value_error("as many memories as keys are needed");
  auto borrowed = std::make_unique<Borrowed>();
  operation.part_first.reserve(operation.keys.size() + 1);
  operation.part_first.push_back(0);
  Pieces pieces;
  for (const nb::handle memory : memories) {
    append_memory(memory, writable, *borrowed, pieces);
    operation.part_first.push_back(static_cast<uint32_t>(pieces.parts.size()));
  }
  operation.parts = std::move(pieces.parts);
  operation.gpus = std::move(pieces.gpus);
  // A sequence is anything that Python takes for one: what it says of its length need not be what it gives.
  if (operation.part_first.size() != operation.keys.size() + 1)
    throw nb::value_error("as many memories as keys are needed");
  return borrowed;
}

PyOperation put(nb::object self, nb::sequence keys, nb::sequence memories, uint64_t layout, uint32_t deadline_ms,
                bool relaxed, uint64_t ttl_ms, nb::bytes group, uint16_t group_members, uint64_t scope) {
  auto operation = begin(FrameType::put, keys, layout, deadline_ms);
  auto borrowed = attach(*operation, memories, false);
  operation->durability = relaxed ? cairn::Durability::relaxed : cairn::Durability::durable;
  operation->ttl_ms = ttl_ms;
  if (group.size() != 0) {
    if (group.size() != operation->group.size()) throw nb::value_error("a group is a bytes object of 16, or empty");
    std::memcpy(operation->group.data(), group.data(), operation->group.size());
  }
  operation->group_members = group_members;
  operation->scope = scope;
  return send(std::move(self), std::move(operation), std::move(borrowed));
}

PyOperation get(nb::object self, nb::sequence keys, nb::sequence memories, uint64_t layout, uint32_t deadline_ms,
                nb::object ranges) {
  auto operation = begin(FrameType::get, keys, layout, deadline_ms);
  auto borrowed = attach(*operation, memories, true);
  if (!ranges.is_none()) {
    for (const nb::handle range : ranges) {
      const auto [offset, length] = nb::cast<std::pair<uint64_t, uint64_t>>(range);
      operation->ranges.push_back({offset, length});
    }
    if (operation->ranges.size() != operation->keys.size()) throw nb::value_error("as many ranges as keys are needed");
  }
  return send(std::move(self), std::move(operation), std::move(borrowed));
}

template <FrameType type>
PyOperation keys_only(nb::object self, nb::sequence keys, uint64_t layout, uint32_t deadline_ms) {
  static_assert(type >= FrameType::put && type <= FrameType::watch, "an operation that is no request");
  static_assert(type != FrameType::put && type != FrameType::get, "an operation that needs memory has none");
  return send(std::move(self), begin(type, keys, layout, deadline_ms), nullptr);
}

PyOperation lease(nb::object self, nb::sequence keys, uint64_t layout, uint32_t deadline_ms, uint64_t duration_ms) {
  auto operation = begin(FrameType::lease, keys, layout, deadline_ms);
  operation->duration_ms = duration_ms;
  return send(std::move(self), std::move(operation), nullptr);
}

PyOperation delete_named(nb::object self, uint8_t kind, nb::bytes group, uint64_t layout, uint64_t scope,
                         uint32_t deadline_ms) {
  auto operation = begin(FrameType::remove, nb::list(), layout, deadline_ms);
  operation->keys.push_back(kind == cairn::kRemoveGroup ? key_of(group) : cairn::Key{});
  operation->delete_kind = kind;
  operation->scope = scope;
  return send(std::move(self), std::move(operation), nullptr);
}

PyOperation watch(nb::object self, uint64_t after, uint32_t events_most, uint32_t deadline_ms) {
  auto operation = begin(FrameType::watch, nb::list(), 0, deadline_ms);
  operation->after = after;
  operation->events_most = events_most;
  return send(std::move(self), std::move(operation), nullptr);
}

PyOperation stats(nb::object self, uint32_t deadline_ms) {
  return send(std::move(self), begin(FrameType::stats, nb::list(), 0, deadline_ms), nullptr);
}

// What a peer said, whatever it said.
nb::object text_of(const std::string& told) {
  return nb::steal(PyUnicode_DecodeUTF8(told.data(), static_cast<Py_ssize_t>(told.size()), "replace"));
}

[[noreturn]] void raise_connect_error(cairn::Status status, const std::string& reason) {
  const nb::tuple args = nb::make_tuple(static_cast<int>(status), text_of(reason));
  PyErr_SetObject(connect_error, args.ptr());
  throw nb::python_error();
}

void connect(PyClient* self, const std::string& url, const std::string& tenant, const std::string& token,
             const std::string& name, uint32_t lanes, int connect_timeout_ms, bool verify) {
  cairn::ClientOptions options;
  options.tenant = tenant;
  options.token = token;
  options.name = name;
  options.lanes = lanes;
  options.connect_timeout_ms = connect_timeout_ms;
  options.verify = verify;
  if (const auto ways = cairn::Ways::parse(url); !ways.ok()) throw nb::value_error(ways.error().message.c_str());
  std::variant<std::unique_ptr<cairn::Client>, cairn::ConnectFailure> connected;
  SignalsHandled call;
  connected = cairn::Client::connect(url, options, &call);
  call.finish();
  if (const auto* failure = std::get_if<cairn::ConnectFailure>(&connected))
    raise_connect_error(failure->status, failure->reason);
  CAIRN_CHECK(std::get<std::unique_ptr<cairn::Client>>(connected) != nullptr, "a client was connected and lost");
  new (self) PyClient{std::get<std::unique_ptr<cairn::Client>>(std::move(connected))};
}

int completion_fd(PyClient& self) {
  cairn::Result<int> event = cairn::Error{};
  {
    const PythonReleased released;
    event = self.client->completion_fd();
  }
  if (!event.ok()) raise_connect_error(cairn::Status::busy, event.error().message);
  return event.value();
}

PyRegion alloc(nb::object self, uint64_t nbytes) {
  cairn::Client& client = client_of(self);
  cairn::Result<cairn::MemoryRegion*> region = cairn::Error{};
  {
    const PythonReleased released;
    region = client.alloc_region(nbytes);
  }
  if (!region.ok()) throw nb::value_error(region.error().message.c_str());
  CAIRN_CHECK(region.value() != nullptr, "a region was made and lost");
  return {std::move(self), region.value(), nbytes};
}

PyRegion register_memory(nb::object self, nb::handle memory) {
  auto borrowed = std::make_unique<Borrowed>();
  Pieces pieces;
  append_memory(memory, true, *borrowed, pieces);
  if (pieces.parts.size() != 1) throw nb::value_error("a region is one piece of memory");
  const ByteSpan bytes{static_cast<std::byte*>(pieces.parts[0].iov_base), pieces.parts[0].iov_len};
  const int gpu = pieces.gpus.empty() ? cairn::kHostMemory : pieces.gpus[0];
  cairn::Client& client = client_of(self);
  cairn::Result<cairn::MemoryRegion*> region = cairn::Error{};
  {
    const PythonReleased released;
    region = client.register_memory(bytes, gpu);
  }
  if (!region.ok()) throw nb::value_error(region.error().message.c_str());
  return {std::move(self), region.value(), std::move(borrowed), bytes, gpu};
}

nb::bytes bytes_of(const std::array<uint8_t, 16>& array) {
  return nb::bytes(array.data(), array.size());
}

nb::dict info(PyClient& self) {
  cairn::ClientInfo info;
  {
    const PythonReleased released;
    info = self.client->info();
  }
  nb::dict out;
  out["transport"] = info.transport;
  out["server_id"] = bytes_of(info.server_id).attr("hex")();
  out["version"] = cairn::kProtocolVersion;
  out["session_id"] = info.session_id;
  out["lanes"] = info.lanes;
  out["credits"] = info.credits;
  out["window_bytes"] = info.window_bytes;
  out["block_bytes_most"] = info.block_bytes_most;
  out["connected"] = info.connected;
  out["reconnects"] = info.reconnects;
  out["returns"] = info.returns;
  out["breaker"] = info.breaker;
  out["last_error"] = text_of(info.last_error);
  out["gpu_regions"] = cairn::gpu_region_rows(info.gpu_regions);
  return out;
}

nb::list status_table() {
  nb::list rows;
  for (const cairn::StatusRow& row : cairn::kStatusTable) {
    rows.append(
        nb::make_tuple(static_cast<int>(row.status), std::string(row.name), row.http, std::string(row.sentence)));
  }
  return rows;
}

nb::dict limits() {
  nb::dict out;
  out["block_bytes_most"] = cairn::kBlockBytesMost;
  out["batch_items_most"] = cairn::kBatchItemsMost;
  out["item_extents_most"] = cairn::kItemExtentsMost;
  out["region_bytes_most"] = cairn::kRegionBytesMost;
  out["deadline_ms_default"] = cairn::kDeadlineMsDefault;
  out["deadline_ms_most"] = cairn::kDeadlineMsMost;
  out["group_members_most"] = cairn::kGroupMembersMost;
  out["lease_ms_most"] = cairn::kLeaseMsMost;
  out["events_most"] = cairn::kEventsMost;
  out["credits_default"] = cairn::kCreditsDefault;
  out["session_lanes_most"] = cairn::kSessionLanesMost;
  out["protocol_version"] = cairn::kProtocolVersion;
  return out;
}

uint32_t checksum(nb::handle data, uint32_t previous) {
  Borrowed borrowed;
  const ByteSpan bytes = borrowed.add(data, false);
  const PythonReleased released;
  return cairn::crc32c(bytes, previous);
}

void fill(nb::handle buffer, uint64_t seed) {
  Borrowed borrowed;
  const ByteSpan bytes = borrowed.add(buffer, true);
  const PythonReleased released;
  cairn::fill_pattern(bytes, seed);
}

int64_t check(nb::handle buffer, uint64_t seed) {
  Borrowed borrowed;
  const ByteSpan bytes = borrowed.add(buffer, false);
  const PythonReleased released;
  return cairn::check_pattern(bytes, seed);
}

std::vector<int> statuses_of(PyOperation& self) {
  const auto& statuses = self.settled().statuses;
  std::vector<int> codes(statuses.size());
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<int>(statuses[i]);
  return codes;
}

nb::list events_of(PyOperation& self) {
  nb::list rows;
  for (const cairn::EventBody& event : self.settled().events.events) {
    rows.append(nb::make_tuple(event.number, static_cast<int>(event.kind), event.unix_ms, event.sequence,
                               bytes_of(event.key.bytes), bytes_of(event.group), event.layout, event.scope));
  }
  return rows;
}

nb::tuple events_range_of(PyOperation& self) {
  const cairn::Operation& operation = self.settled();
  return nb::make_tuple(operation.events.fixed.oldest, operation.events.fixed.newest,
                        bytes_of(operation.server_id).attr("hex")());
}

void bind_values(nb::module_& m) {
  m.def("version", [] { return CAIRN_VERSION; });
  m.def("status_table", &status_table);
  m.def("limits", &limits);
  m.def("crc32c", &checksum, "data"_a, "previous"_a = 0);
  m.def("copied_bytes", &cairn::copied_bytes);
  m.def("fill_pattern", &fill, "buffer"_a, "seed"_a);
  m.def("check_pattern", &check, "buffer"_a, "seed"_a);
  connect_error = PyErr_NewException("cairnkv._native.ConnectError", nullptr, nullptr);
  m.attr("ConnectError") = nb::borrow(connect_error);
}

void bind_region(nb::module_& m) {
  nb::class_<PyRegion>(m, "Region", nb::type_slots(region_slots), nb::is_final())
      .def_prop_ro("address", &PyRegion::address)
      .def_prop_ro("nbytes", &PyRegion::nbytes)
      .def_prop_ro("shared", &PyRegion::shared)
      .def_prop_ro("device", &PyRegion::gpu)
      .def_prop_ro("transfer", &PyRegion::transfer)
      .def_prop_ro("reason", &PyRegion::reason)
      .def("close", &PyRegion::close);
}

void bind_operation(nb::module_& m) {
  nb::class_<PyOperation>(m, "Operation", nb::is_final())
      .def_prop_ro("id", &PyOperation::id)
      .def("done", &PyOperation::done)
      .def("wait", &PyOperation::wait)
      .def("cancel", &PyOperation::cancel)
      .def_prop_ro("statuses", &statuses_of)
      .def_prop_ro("lengths", [](PyOperation& self) { return self.settled().lengths; })
      .def_prop_ro("sequences", [](PyOperation& self) { return self.settled().sequences; })
      .def_prop_ro("matched", [](PyOperation& self) { return self.settled().matched; })
      .def_prop_ro("events", &events_of)
      .def_prop_ro("events_range", &events_range_of)
      .def_prop_ro("text", [](PyOperation& self) { return text_of(self.settled().text); });
}

void bind_client(nb::module_& m) {
  nb::class_<PyClient>(m, "Client", nb::is_final())
      .def("__init__", &connect, "url"_a, nb::kw_only(), "tenant"_a = "default", "token"_a = "", "name"_a = "",
           "lanes"_a = 1, "connect_timeout_ms"_a = 5000, "verify"_a = true)
      .def("alloc", &alloc, "nbytes"_a)
      .def("register", &register_memory, "memory"_a)
      .def("put", &put, "keys"_a, "memories"_a, "layout"_a = 0, "deadline_ms"_a = 0, "relaxed"_a = false,
           "ttl_ms"_a = 0, "group"_a = nb::bytes("", 0), "group_members"_a = 0, "scope"_a = 0)
      .def("get", &get, "keys"_a, "memories"_a, "layout"_a = 0, "deadline_ms"_a = 0, "ranges"_a = nb::none())
      .def("exists", &keys_only<FrameType::exists>, "keys"_a, "layout"_a = 0, "deadline_ms"_a = 0)
      .def("match", &keys_only<FrameType::match>, "keys"_a, "layout"_a = 0, "deadline_ms"_a = 0)
      .def("touch", &keys_only<FrameType::touch>, "keys"_a, "layout"_a = 0, "deadline_ms"_a = 0)
      .def("delete", &keys_only<FrameType::remove>, "keys"_a, "layout"_a = 0, "deadline_ms"_a = 0)
      .def("delete_named", &delete_named, "kind"_a, "group"_a = nb::bytes("", 0), "layout"_a = 0, "scope"_a = 0,
           "deadline_ms"_a = 0)
      .def("lease", &lease, "keys"_a, "layout"_a = 0, "deadline_ms"_a = 0, "duration_ms"_a = 0)
      .def("release", &keys_only<FrameType::release>, "keys"_a, "layout"_a = 0, "deadline_ms"_a = 0)
      .def("watch", &watch, "after"_a, "events_most"_a = 0, "deadline_ms"_a = 0)
      .def("prefetch", &keys_only<FrameType::prefetch>, "keys"_a, "layout"_a = 0, "deadline_ms"_a = 0)
      .def("stats", &stats, "deadline_ms"_a = 0)
      .def("completion_fd", &completion_fd)
      .def("take_completed",
           [](PyClient& self) {
             const PythonReleased released;
             return self.client->take_completed();
           })
      .def("info", &info)
      .def("close", [](PyClient& self) {
        SignalsHandled call;
        self.client->close(&call);
        call.finish();
      });
}

}  // namespace

NB_MODULE(_native, m) {
  // A process that ends with an object alive is no bug of ours to report to its user.
  nb::set_leak_warnings(false);
  cairn::watch_for_the_end();
  bind_values(m);
  cairn::bind_gpu(m);
  bind_region(m);
  bind_operation(m);
  bind_client(m);
}
