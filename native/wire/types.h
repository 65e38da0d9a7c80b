// The words both sides share: a key, what identifies a block, where client memory lies.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace cairn {

// 16 bytes, chosen by the client: BLAKE2b-128 of the caller's key, personalised by the layout.
struct Key {
  std::array<uint8_t, 16> bytes{};
  auto operator<=>(const Key&) const = default;
};

// What makes two blocks the same block. Two tenants' equal keys are different blocks; a get under
// another layout is a miss.
struct BlockId {
  Key key;
  uint64_t layout = 0;
  uint32_t tenant = 0;
  auto operator<=>(const BlockId&) const = default;
};

// Blocks useful only together. All zero: no group. A group is named within one tenant and layout.
using GroupId = std::array<uint8_t, 16>;

// A caller's label within a tenant: a model, a session. What a delete may name. 0: none.
using Scope = uint64_t;

enum class Durability : uint8_t {
  durable = 0,  // answered once the block survives kill -9 and power loss
  relaxed = 1,  // answered once the service has the bytes
};

}  // namespace cairn
