// BLAKE2b against RFC 7693 ("abc") and against Python's hashlib.
#include "base/blake2b.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

namespace cairn {
namespace {

struct Known {
  std::string data;
  size_t bytes;
  std::string digest;
};

TEST(Blake2b, GivesTheDigestsOfOthers) {
  const std::vector<Known> all = {
      {"", 16, "cae66941d9efbd404e4d88758ea67670"},
      {"abc", 64,
       "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d17d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925"
       "ab92386edd4009923"},
      {"team-a", 16, "ea8f2f44d213480e162241e5cfbfc382"},
      {std::string(128, 'x'), 16, "874acca82a22239ec64a3e70c3ae494e"},
      {std::string(129, 'y'), 16, "1387a72eb29ba78bf6693c16ba54611b"},
      {std::string(300, 'z'), 32, "e1e530d3a6dd33c99bdbc2408d278b249b3e9bdd56a16558534813068bc2d6fa"},
  };
  for (const Known& one : all) {
    const auto digest = blake2b(one.data, one.bytes);
    std::string text;
    for (size_t i = 0; i < one.bytes; ++i) {
      char digits[3];
      std::snprintf(digits, sizeof(digits), "%02x", digest[i]);
      text += digits;
    }
    EXPECT_EQ(text, one.digest) << one.data.size() << " bytes";
  }
}

}  // namespace
}  // namespace cairn
