// A client and the regions of its memory, as Python holds them. Translation only.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "bindings/cairnkv_gil.h"
#include "bindings/cairnkv_memory.h"
#include "client/client.h"

namespace cairn {

// Lives as long as any Region or Operation of it; close() ends the session, not the object.
struct PyClient {
  std::unique_ptr<Client> client;

  explicit PyClient(std::unique_ptr<Client> connected) : client(std::move(connected)) {}
  PyClient(PyClient&&) = delete;
  ~PyClient() {
    const PythonReleased released;
    Client::let_go(std::move(client));
  }
};

inline Client& client_of(const nb::object& self) {
  PyClient& client = nb::cast<PyClient&>(self);
  CAIRN_CHECK(client.client != nullptr, "Python holds a client that was not connected");
  return *client.client;
}

// Memory of the client's making, or a borrowed buffer; the client knows of that, too, where its transport gains by it.
class PyRegion {
 public:
  PyRegion(nb::object owner, MemoryRegion* region, uint64_t nbytes)
      : owner_(std::move(owner)), region_(region), bytes_{region->base(), nbytes} {
    CAIRN_CHECK(nbytes <= region->bytes(), "Python is given more of a region than there is");
  }
  PyRegion(nb::object owner, MemoryRegion* region, std::unique_ptr<Borrowed> borrowed, ByteSpan bytes, int gpu)
      : owner_(std::move(owner)), region_(region), borrowed_(std::move(borrowed)), bytes_(bytes), gpu_(gpu) {}
  PyRegion(PyRegion&& other) noexcept
      : owner_(std::move(other.owner_)),
        region_(std::exchange(other.region_, nullptr)),
        borrowed_(std::move(other.borrowed_)),
        bytes_(std::exchange(other.bytes_, {})),
        gpu_(other.gpu_) {}
  ~PyRegion() { free(); }

  uintptr_t address() const { return reinterpret_cast<uintptr_t>(bytes_.data()); }
  size_t nbytes() const { return bytes_.size(); }
  bool shared() const {
    if (region_ == nullptr) return false;
    if (gpu_ != kHostMemory) return reason().empty();
    Client& client = client_of(owner_);
    const PythonReleased released;
    return client.region_is_shared(*region_);
  }
  nb::object gpu() const { return gpu_ == kHostMemory ? nb::none() : nb::object(nb::int_(gpu_)); }
  std::string transfer() const {
    if (shared()) return "direct";
    return gpu_ == kHostMemory ? "streamed" : "bounced";
  }
  std::string reason() const {
    if (region_ == nullptr || gpu_ == kHostMemory) return {};
    Client& client = client_of(owner_);
    const PythonReleased released;
    return client.region_reason(*region_);
  }
  void close() {
    if (exports_ > 0) throw nb::buffer_error("the region is in use: release its memoryviews and arrays first");
    if (MemoryRegion* region = std::exchange(region_, nullptr)) {
      Client& client = client_of(owner_);
      SignalsHandled call;  // it waits for what is in flight there
      client.free_region(region, &call);
      call.finish();
    }
    free();
  }
  ByteSpan exported() {
    if (bytes_.data() == nullptr) throw nb::buffer_error("the region is closed");
    if (gpu_ != kHostMemory)
      throw nb::buffer_error(
          "the region lies on a GPU: no host code looks into it; name a part of it as (address, nbytes)");
    ++exports_;
    return bytes_;
  }
  void returned() {
    CAIRN_CHECK(exports_ > 0, "Python gives memory of a region back that it was not lent");
    --exports_;
  }

 private:
  void free() {
    CAIRN_CHECK(exports_ == 0, "a region is freed that Python still looks into");
    if (MemoryRegion* region = std::exchange(region_, nullptr)) {
      Client& client = client_of(owner_);
      const PythonReleased released;
      client.free_region(region);
    }
    borrowed_.reset();
    bytes_ = {};
  }

  nb::object owner_;
  MemoryRegion* region_ = nullptr;
  std::unique_ptr<Borrowed> borrowed_;
  ByteSpan bytes_;
  int gpu_ = kHostMemory;
  int exports_ = 0;
};

}  // namespace cairn
