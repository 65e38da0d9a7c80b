#include "client/bounce.h"

#include "base/check.h"

namespace cairn {

Buffer Bounce::take(MemoryDomain& domain, uint64_t bytes, std::string& error) {
  CAIRN_CHECK(bytes > 0 && bytes <= kBounceBytes, "a request bounces more than there can be memory for");
  if (slab_ == nullptr) {
    auto created = Slab::create(kBounceBytes);
    if (!created) {
      error = created.error().message;
      return {};
    }
    slab_ = created.take();
  }
  if (!exposed_.contains(&domain)) {
    auto exposed = domain.expose(slab_->memory());
    if (!exposed) {
      error = exposed.error().message;
      return {};
    }
    exposed_.emplace(&domain, exposed.take());
  }
  return slab_->allocate(bytes);
}

}  // namespace cairn
