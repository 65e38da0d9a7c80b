// Writes JSON text. Writing only: nothing native reads JSON.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace cairn {

// Appends to one string; commas and quoting are its business, balance of begin and end the caller's.
class JsonWriter {
 public:
  JsonWriter& begin_object(std::string_view name = {}) { return open(name, '{'); }
  JsonWriter& begin_array(std::string_view name = {}) { return open(name, '['); }
  JsonWriter& end_object() { return shut('}'); }
  JsonWriter& end_array() { return shut(']'); }
  JsonWriter& text(std::string_view name, std::string_view value);
  JsonWriter& number(std::string_view name, uint64_t value);
  JsonWriter& real(std::string_view name, double value);
  JsonWriter& boolean(std::string_view name, bool value);
  std::string take() {
    CAIRN_CHECK(depth_ == 0, "JSON is taken before all that was begun has ended");
    return std::move(out_);
  }

 private:
  JsonWriter& open(std::string_view name, char bracket);
  JsonWriter& shut(char bracket);
  // The comma and the name, if any (members of an array have none).
  void lead(std::string_view name);
  void quote(std::string_view value);

  std::string out_;
  bool first_ = true;
  uint32_t depth_ = 0;  // begun and not ended
};

}  // namespace cairn
