// Copies payload that the copying thread does not read again.
#pragma once

#include <cstddef>

namespace cairn {

// As memcpy. From kStreamedBytesLeast on the cache is left as it is and no line of the target is read first, which
// makes two transfers over the memory bus of three. Whoever is told of the copy afterwards sees it whole. Any thread.
void copy_streaming(std::byte* to, const std::byte* from, size_t bytes);

// Below, whoever gets the bytes most likely finds them in a cache, which is worth more.
inline constexpr size_t kStreamedBytesLeast = 256 * 1024;

}  // namespace cairn
