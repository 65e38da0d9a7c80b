#include "transport/rdma_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "base/check.h"
#include "transport/rdma_hold.h"

namespace cairn {

namespace {

Result<RdmaMemory> register_with(const Verbs& verbs, ibv_pd* domain, ByteSpan memory, int access) {
  CAIRN_CHECK(domain != nullptr, "memory is registered in no domain");
  CAIRN_CHECK(!memory.empty(), "no memory is registered");
  ibv_mr* region = verbs.reg_mr(domain, memory.data(), memory.size(), access);
  if (region != nullptr) return RdmaMemory(verbs, region);
  const int number = errno;
  const std::string what = "cannot register " + std::to_string(memory.size()) + " bytes of memory for RDMA";
  if (number == ENOMEM || number == EAGAIN) return Error::from_errno(number, what, advice_on_locked_memory());
  return Error::from_errno(number, what);
}

}  // namespace

bool RdmaMemory::end() {
  ibv_mr* region = std::exchange(region_, nullptr);
  return region == nullptr || has_ended(verbs_->dereg_mr(region));
}

Result<RdmaMemory> register_own(const Verbs& verbs, ibv_pd* domain, ByteSpan memory) {
  return register_with(verbs, domain, memory, kAccessOwn);
}

Result<RdmaMemory> register_for_windows(const Verbs& verbs, ibv_pd* domain, ByteSpan memory) {
  return register_with(verbs, domain, memory, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND);
}

Result<RdmaMemory> register_open(const Verbs& verbs, ibv_pd* domain, ByteSpan memory, bool writes) {
  const int access = writes ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE : IBV_ACCESS_REMOTE_READ;
  return register_with(verbs, domain, memory, access);
}

Result<RdmaMemory> register_dma_buf(const Verbs& verbs, ibv_pd* domain, ByteSpan memory, int descriptor,
                                    uint64_t offset) {
  CAIRN_CHECK(domain != nullptr, "memory is registered in no domain");
  CAIRN_CHECK(!memory.empty(), "no memory is registered");
  CAIRN_CHECK(descriptor >= 0, "memory is registered by a dma-buf that is none");
  if (verbs.reg_dmabuf_mr == nullptr)
    return Error{0, "this libibverbs registers no dma-buf; install rdma-core 34 or newer"};
  constexpr int kAccess = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
  static_assert((kAccess & IBV_ACCESS_MW_BIND) == 0, "Linux refuses to register a dma-buf for windows");
  const auto address = reinterpret_cast<uint64_t>(memory.data());
  ibv_mr* region = verbs.reg_dmabuf_mr(domain, offset, memory.size(), address, descriptor, kAccess);
  if (region != nullptr) return RdmaMemory(verbs, region);
  const int number = errno;
  const std::string device = domain->context->device->name;
  if (number == EOPNOTSUPP || number == ENOTSUP || number == EPROTONOSUPPORT || number == ENOSYS)
    return Error{number, "the RDMA device " + device + " registers no dma-buf"};
  const std::string what = "the RDMA device " + device + " does not register this dma-buf";
  return Error::from_errno(number, what);
}

MessagePool::MessagePool(const Verbs& verbs, ibv_pd* domain, uint32_t slot_bytes)
    : verbs_(verbs), domain_(domain), slot_bytes_(slot_bytes) {
  CAIRN_CHECK(slot_bytes % 64 == 0, "messages share lines of the processor's cache");
}

void MessagePool::Unmap::operator()(std::byte* base) const {
  munmap(base, bytes);
}

bool MessagePool::grow() {
  const size_t bytes = size_t{kPieceSlots} * slot_bytes_;
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (base == MAP_FAILED) return false;
  Piece piece{{static_cast<std::byte*>(base), Unmap{bytes}}, {}};
  auto registered = register_own(verbs_, domain_, {piece.base.get(), bytes});
  if (!registered) return false;
  piece.memory = registered.take();
  const auto first = static_cast<uint32_t>(pieces_.size()) * kPieceSlots;
  free_.reserve(first + kPieceSlots);
  pieces_.push_back(std::move(piece));
  for (uint32_t i = kPieceSlots; i > 0; --i) free_.push_back(first + i - 1);
  return true;
}

uint32_t MessagePool::take() {
  CAIRN_CHECK(free_.size() <= pieces_.size() * kPieceSlots, "more slots are free than there are");
  if (free_.empty() && !grow()) return kNone;
  const uint32_t slot = free_.back();
  free_.pop_back();
  return slot;
}

void MessagePool::give_back(uint32_t slot) {
  CAIRN_CHECK(slot < pieces_.size() * kPieceSlots, "a slot comes back that was never given");
  CAIRN_CHECK(free_.size() < pieces_.size() * kPieceSlots, "a slot comes back twice");
  free_.push_back(slot);
}

std::byte* MessagePool::at(uint32_t slot) const {
  CAIRN_CHECK(slot < pieces_.size() * kPieceSlots, "a slot is used that was never given");
  return pieces_[slot / kPieceSlots].base.get() + size_t{slot % kPieceSlots} * slot_bytes_;
}

}  // namespace cairn
