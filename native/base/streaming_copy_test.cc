#include "base/streaming_copy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/pattern.h"

namespace cairn {
namespace {

TEST(StreamingCopy, IsAsMemcpyWhateverTheLengthAndWhereItLies) {
  std::vector<std::byte> from(kStreamedBytesLeast * 2 + 256), to(from.size());
  fill_pattern(from, 7);
  for (const size_t bytes : {size_t{0}, size_t{1}, kStreamedBytesLeast - 1, kStreamedBytesLeast,
                             kStreamedBytesLeast + 1, kStreamedBytesLeast + 64, kStreamedBytesLeast * 2 - 13}) {
    for (const size_t target : {size_t{64}, size_t{65}, size_t{80}, size_t{127}}) {
      for (const size_t source : {size_t{0}, size_t{3}, size_t{64}}) {
        std::fill(to.begin(), to.end(), std::byte{0xA5});
        copy_streaming(to.data() + target, from.data() + source, bytes);
        const auto begin = to.begin() + static_cast<long>(target), end = begin + static_cast<long>(bytes);
        EXPECT_TRUE(std::equal(begin, end, from.begin() + static_cast<long>(source))) << bytes << " to " << target;
        const auto untouched = [](std::byte byte) { return byte == std::byte{0xA5}; };
        EXPECT_TRUE(std::all_of(to.begin(), begin, untouched)) << bytes << " to " << target;
        EXPECT_TRUE(std::all_of(end, to.end(), untouched)) << bytes << " to " << target;
      }
    }
  }
}

TEST(StreamingCopy, CountsWhatItCopies) {
  std::vector<std::byte> from(kStreamedBytesLeast), to(from.size());
  const uint64_t before = copied_bytes();
  copy_streaming(to.data(), from.data(), 0);
  EXPECT_EQ(copied_bytes(), before);
  copy_streaming(to.data(), from.data(), 5);
  copy_streaming(to.data(), from.data(), from.size());
  EXPECT_EQ(copied_bytes(), before + 5 + from.size());
}

}  // namespace
}  // namespace cairn
