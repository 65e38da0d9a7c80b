#include "transport/verbs.h"

#include <dlfcn.h>

#include <atomic>
#include <memory>
#include <string>

namespace cairn {

namespace {

std::atomic<const Verbs*> stand_in{nullptr};

class Library {
 public:
  explicit Library(const char* name) : name_(name), handle_(dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) missing_ = dlerror();
  }

  template <class Function>
  void find(Function& function, const char* symbol, bool needed = true) {
    if (handle_ == nullptr) return;
    function = reinterpret_cast<Function>(dlsym(handle_, symbol));
    if (function == nullptr && needed && missing_.empty()) missing_ = name_ + " has no " + symbol;
  }

  const std::string& missing() const { return missing_; }

 private:
  std::string name_;
  void* handle_;  // never closed: devices live as long as the process
  std::string missing_;
};

struct Loaded {
  Verbs verbs{};
  std::string missing;
};

void find_verbs(Library& library, Verbs& verbs) {
  library.find(verbs.alloc_pd, "ibv_alloc_pd");
  library.find(verbs.dealloc_pd, "ibv_dealloc_pd");
  library.find(verbs.reg_mr, "ibv_reg_mr");
  library.find(verbs.reg_dmabuf_mr, "ibv_reg_dmabuf_mr", false);
  library.find(verbs.dereg_mr, "ibv_dereg_mr");
  library.find(verbs.create_comp_channel, "ibv_create_comp_channel");
  library.find(verbs.destroy_comp_channel, "ibv_destroy_comp_channel");
  library.find(verbs.create_cq, "ibv_create_cq");
  library.find(verbs.resize_cq, "ibv_resize_cq");
  library.find(verbs.destroy_cq, "ibv_destroy_cq");
  library.find(verbs.get_cq_event, "ibv_get_cq_event");
  library.find(verbs.ack_cq_events, "ibv_ack_cq_events");
  library.find(verbs.create_srq, "ibv_create_srq");
  library.find(verbs.destroy_srq, "ibv_destroy_srq");
  library.find(verbs.create_qp, "ibv_create_qp");
  library.find(verbs.modify_qp, "ibv_modify_qp");
  library.find(verbs.destroy_qp, "ibv_destroy_qp");
  library.find(verbs.query_device, "ibv_query_device");
  library.find(verbs.wc_status_str, "ibv_wc_status_str");
}

void find_manager(Library& library, Verbs& verbs) {
  library.find(verbs.create_event_channel, "rdma_create_event_channel");
  library.find(verbs.destroy_event_channel, "rdma_destroy_event_channel");
  library.find(verbs.create_id, "rdma_create_id");
  library.find(verbs.destroy_id, "rdma_destroy_id");
  library.find(verbs.bind_addr, "rdma_bind_addr");
  library.find(verbs.listen, "rdma_listen");
  library.find(verbs.resolve_addr, "rdma_resolve_addr");
  library.find(verbs.resolve_route, "rdma_resolve_route");
  library.find(verbs.init_qp_attr, "rdma_init_qp_attr");
  library.find(verbs.connect, "rdma_connect");
  library.find(verbs.establish, "rdma_establish");
  library.find(verbs.accept, "rdma_accept");
  library.find(verbs.reject, "rdma_reject");
  library.find(verbs.disconnect, "rdma_disconnect");
  library.find(verbs.set_option, "rdma_set_option");
  library.find(verbs.get_cm_event, "rdma_get_cm_event");
  library.find(verbs.ack_cm_event, "rdma_ack_cm_event");
  library.find(verbs.event_str, "rdma_event_str");
  library.find(verbs.get_src_port, "rdma_get_src_port");
}

Loaded load() {
  Loaded loaded;
  Library verbs("libibverbs.so.1"), manager("librdmacm.so.1");
  find_verbs(verbs, loaded.verbs);
  find_manager(manager, loaded.verbs);
  loaded.missing = !verbs.missing().empty() ? verbs.missing() : manager.missing();
  return loaded;
}

}  // namespace

void stand_in_for_verbs(const Verbs* verbs) {
  stand_in.store(verbs, std::memory_order_release);
}

Result<const Verbs*> load_verbs() {
  if (const Verbs* other = stand_in.load(std::memory_order_acquire)) return other;
  // Never destroyed: threads of ours may outlive the end of main(). Without a lock, which a forked child might find
  // held.
  static std::atomic<const Loaded*> known{nullptr};
  const Loaded* loaded = known.load(std::memory_order_acquire);
  if (loaded == nullptr) {
    auto fresh = std::make_unique<const Loaded>(load());
    if (known.compare_exchange_strong(loaded, fresh.get(), std::memory_order_acq_rel)) loaded = fresh.release();
  }
  if (loaded->missing.empty()) return &loaded->verbs;
  return Error{0, "RDMA cannot be used here: " + loaded->missing +
                      "; install the packages libibverbs1, librdmacm1 and ibverbs-providers (rdma-core)"};
}

}  // namespace cairn
