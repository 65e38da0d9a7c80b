#include "base/json.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace cairn {

void JsonWriter::lead(std::string_view name) {
  if (!first_) out_ += ',';
  first_ = false;
  if (name.empty()) return;
  quote(name);
  out_ += ':';
}

namespace {

// The bytes of the character that the text begins with; 0: it is no UTF-8.
size_t character_bytes(std::string_view text) {
  CAIRN_CHECK(!text.empty(), "the first character of no text");
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (size_t at = 1; at < length; ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xC0) != 0x80) return 0;
  }
  // Longer than it need be, half of a pair, or beyond the last character.
  const auto second = static_cast<unsigned char>(text[1]);
  const bool wrong = (first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
                     (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F);
  return wrong ? 0 : length;
}

}  // namespace

void JsonWriter::quote(std::string_view value) {
  out_ += '"';
  while (!value.empty()) {
    const size_t length = character_bytes(value);
    const auto byte = static_cast<unsigned char>(value[0]);
    char escaped[8];
    if (length > 1) {
      out_ += value.substr(0, length);
    } else if (length == 0) {
      // Paths, and names from clients, may be any bytes: they are shown as Python shows them, `\xff`.
      std::snprintf(escaped, sizeof(escaped), "\\\\x%02x", byte);
      out_ += escaped;
    } else if (byte == '"' || byte == '\\') {
      out_ += '\\';
      out_ += value[0];
    } else if (byte < 0x20 || byte == 0x7F) {
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", byte);
      out_ += escaped;
    } else {
      out_ += value[0];
    }
    value.remove_prefix(length == 0 ? 1 : length);
  }
  out_ += '"';
}

JsonWriter& JsonWriter::open(std::string_view name, char bracket) {
  lead(name);
  out_ += bracket;
  ++depth_;
  first_ = true;
  return *this;
}

JsonWriter& JsonWriter::shut(char bracket) {
  CAIRN_CHECK(depth_ > 0, "more of a JSON text ends than was begun");
  --depth_;
  out_ += bracket;
  first_ = false;
  return *this;
}

JsonWriter& JsonWriter::text(std::string_view name, std::string_view value) {
  lead(name);
  quote(value);
  return *this;
}

JsonWriter& JsonWriter::number(std::string_view name, uint64_t value) {
  lead(name);
  out_ += std::to_string(value);
  return *this;
}

JsonWriter& JsonWriter::real(std::string_view name, double value) {
  CAIRN_CHECK(std::isfinite(value), "JSON has no word for this number");
  lead(name);
  char digits[32];
  std::snprintf(digits, sizeof(digits), "%.6g", value);
  out_ += digits;
  return *this;
}

JsonWriter& JsonWriter::boolean(std::string_view name, bool value) {
  lead(name);
  out_ += value ? "true" : "false";
  return *this;
}

}  // namespace cairn
