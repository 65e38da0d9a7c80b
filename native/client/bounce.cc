#include "client/bounce.h"

#include <cstdint>
#include <string>

#include "base/check.h"

namespace cairn {

Bounce::~Bounce() {
  exposed_.clear();
  if (pinned_) Gpu::loaded()->unpin(slab_->memory());
}

bool Bounce::prepare(MemoryDomain* domain, bool for_gpu, std::string& error) {
  if (slab_ == nullptr) {
    auto created = Slab::create(kBounceBytes);
    if (!created) {
      error = created.error().message;
      return false;
    }
    slab_ = created.take();
  }
  if (for_gpu && !pin_tried_) {
    CAIRN_CHECK(Gpu::loaded() != nullptr, "memory is pinned for the GPUs of no driver");
    pin_tried_ = true;
    pinned_ = Gpu::loaded()->pin(slab_->memory()).ok();
  }
  if (domain == nullptr || exposed_.contains(domain)) return true;
  auto exposed = domain->expose(slab_->memory());
  if (!exposed) {
    error = exposed.error().message;
    return false;
  }
  exposed_.emplace(domain, exposed.take());
  return true;
}

Buffer Bounce::take(MemoryDomain* domain, uint64_t bytes, bool for_gpu, std::string& error) {
  CAIRN_CHECK(bytes > 0 && bytes <= kBounceBytes, "a request bounces more than there can be memory for");
  if (!prepare(domain, for_gpu, error)) return {};
  return slab_->allocate(bytes);
}

}  // namespace cairn
