// What a test has when it runs in the testbed (docs/testbed.md); nothing elsewhere.
#pragma once

#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

namespace cairn {

// Namespaces, by their character devices, whose contents a test may destroy.
inline std::vector<std::string> testbed_namespaces() {
  const char* named = std::getenv("CAIRN_TESTBED_NAMESPACES");
  std::istringstream words(named == nullptr ? "" : named);
  std::vector<std::string> paths;
  for (std::string path; words >> path;) paths.push_back(path);
  return paths;
}

}  // namespace cairn
