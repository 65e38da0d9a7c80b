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

void JsonWriter::quote(std::string_view value) {
  out_ += '"';
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out_ += '\\';
      out_ += c;
    } else if (byte < 0x20 || byte >= 0x7F) {
      // Bytes that may not be UTF-8 (paths, names from clients) become Latin-1 escapes: always valid JSON.
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", byte);
      out_ += escaped;
    } else {
      out_ += c;
    }
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
