// Whatever bytes a peer gives for a name, the text is valid JSON, and a name that is text stays what it is.
#include "base/json.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace cairn {
namespace {

std::string shown(std::string_view value) {
  JsonWriter json;
  json.begin_object().text("n", value).end_object();
  return json.take();
}

TEST(JsonTest, TextOfEveryScriptStaysWhatItIs) {
  for (const char* name : {"team-a", "équipe", "команда", "チーム", "🗿", "\u07ff\u0800\uffff\U00010000\U0010ffff"})
    EXPECT_EQ(shown(name), "{\"n\":\"" + std::string(name) + "\"}");
}

TEST(JsonTest, WhatWouldEndTheTextIsEscaped) {
  EXPECT_EQ(shown("a\"b\\c\n\x7f"), R"({"n":"a\"b\\c\u000a\u007f"})");
}

TEST(JsonTest, BytesThatAreNoTextAreShownEachAndDiffer) {
  EXPECT_EQ(shown("\xe9quipe"), R"({"n":"\\xe9quipe"})");
  EXPECT_EQ(shown("\xc0\x80"), R"({"n":"\\xc0\\x80"})") << "longer than it need be";
  EXPECT_EQ(shown("\xed\xa0\x80"), R"({"n":"\\xed\\xa0\\x80"})") << "half of a pair";
  EXPECT_EQ(shown("\xf4\x90\x80\x80"), R"({"n":"\\xf4\\x90\\x80\\x80"})") << "beyond the last character";
  EXPECT_EQ(shown("\xe3\x81"), R"({"n":"\\xe3\\x81"})") << "cut short";
  EXPECT_NE(shown("\xe9"), shown("é"));
}

}  // namespace
}  // namespace cairn
