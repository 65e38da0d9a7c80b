// Copies payload, and counts it. Whoever copies payload does it here: the counter shows what was not moved in place.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cairn {

// As memcpy, of bytes that the copying thread does not read again soon. From kStreamedBytesLeast on the cache is left
// as it is and no line of the target is read first, which makes two transfers over the memory bus of three. Whoever is
// told of the copy afterwards sees it whole. Any thread.
void copy_streaming(std::byte* to, const std::byte* from, size_t bytes);

// The same for a piece of a large copy, however small it is.
void copy_past_cache(std::byte* to, const std::byte* from, size_t bytes);

// All that this process copied so far. Any thread. What the kernel copies, to and from a socket, is not in it.
uint64_t copied_bytes();

// Below, whoever gets the bytes most likely finds them in a cache, which is worth more.
inline constexpr size_t kStreamedBytesLeast = 256 * 1024;

}  // namespace cairn
