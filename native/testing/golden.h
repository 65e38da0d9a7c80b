// Golden bytes that the format documents carry: what is written there and what the code makes must agree.
#pragma once

#include <cstddef>
#include <fstream>
#include <span>
#include <sstream>
#include <string>

namespace cairn {

// Sixteen bytes a line, as the pages show them.
inline std::string hex(std::span<const std::byte> bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); ++i) {
    out += "0123456789abcdef"[static_cast<int>(bytes[i]) >> 4];
    out += "0123456789abcdef"[static_cast<int>(bytes[i]) & 15];
    out += (i + 1) % 16 == 0 || i + 1 == bytes.size() ? '\n' : ' ';
  }
  return out;
}

// The fenced block behind `<!-- golden: name -->` in a page of docs/.
inline std::string golden_in_page(const std::string& page, const std::string& name) {
  std::ifstream file(std::string(CAIRN_SOURCE_DIR) + "/docs/" + page);
  std::stringstream text;
  text << file.rdbuf();
  const std::string all = text.str();
  const std::string fence = "```hex\n";
  const size_t mark = all.find("<!-- golden: " + name + " -->");
  if (mark == std::string::npos) return "the page has no such block";
  const size_t from = all.find(fence, mark) + fence.size();
  return all.substr(from, all.find("```", from) - from);
}

}  // namespace cairn
