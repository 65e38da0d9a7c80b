#include "base/memory_left.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace cairn {

namespace {

std::optional<uint64_t> number_of(std::string_view text) {
  uint64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc{}) return std::nullopt;  // "max" as well: no limit
  return number;
}

std::optional<uint64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  if (!(file >> word)) return std::nullopt;
  return number_of(word);
}

// The sum of the lines of `path` that begin with one of the names, as in "MemFree:  123 kB".
uint64_t sum_in(const std::string& path, const std::vector<std::string_view>& names) {
  std::ifstream file(path);
  uint64_t sum = 0;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name, number;
    words >> name >> number;
    if (std::find(names.begin(), names.end(), name) != names.end()) sum += number_of(number).value_or(0);
  }
  return sum;
}

// Where a hierarchy of control groups is mounted, and which of its groups is at the mount point.
struct Mount {
  std::string point, group;
};

std::vector<std::string> split(const std::string& text, char by) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, by);) parts.push_back(part);
  return parts;
}

std::optional<Mount> find_mount(const std::string& root, bool second_version) {
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    // id parent device root mount-point options [optional fields] - type source super-options
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const auto before = split(line.substr(0, dash), ' ');
    const auto after = split(line.substr(dash + 3), ' ');
    if (before.size() < 5 || after.size() < 3) continue;
    const auto options = split(after[2], ',');
    const bool found =
        second_version ? after[0] == "cgroup2"
                       : after[0] == "cgroup" && std::find(options.begin(), options.end(), "memory") != options.end();
    if (found) return Mount{before[4], before[3]};
  }
  return std::nullopt;
}

// Of this process: 0::/path, or 4:memory:/path.
std::optional<std::string> own_group(const std::string& root, bool second_version) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const auto controllers = split(line.substr(first + 1, second - first - 1), ',');
    const bool found = second_version
                           ? line.compare(0, first, "0") == 0 && controllers.empty()
                           : std::find(controllers.begin(), controllers.end(), "memory") != controllers.end();
    if (found) return line.substr(second + 1);
  }
  return std::nullopt;
}

std::optional<uint64_t> left_in(const std::string& folder, bool second_version, uint64_t swap_free) {
  const auto limit = number_in(folder + (second_version ? "/memory.max" : "/memory.limit_in_bytes"));
  const auto used = number_in(folder + (second_version ? "/memory.current" : "/memory.usage_in_bytes"));
  if (!limit || !used) return std::nullopt;
  const uint64_t cache = second_version ? sum_in(folder + "/memory.stat", {"inactive_file", "active_file"})
                                        : sum_in(folder + "/memory.stat", {"total_inactive_file", "total_active_file"});
  const uint64_t kept = *used - std::min(*used, cache);
  uint64_t swap = 0;
  if (second_version) {
    const uint64_t most = number_in(folder + "/memory.swap.max").value_or(UINT64_MAX);
    const uint64_t swapped = number_in(folder + "/memory.swap.current").value_or(0);
    swap = std::min(swap_free, most - std::min(most, swapped));
  }
  const uint64_t left = *limit - std::min(*limit, kept);
  return left > UINT64_MAX - swap ? UINT64_MAX : left + swap;
}

void look_at_groups(const std::string& root, bool second_version, uint64_t swap_free, MemoryLeft& least) {
  const auto mount = find_mount(root, second_version);
  auto group = own_group(root, second_version);
  if (!mount || !group) return;
  // In a container the mount shows a part of the tree, and perhaps not the part that the group's path is told in.
  std::string below = *group;
  if (mount->group != "/" && below.compare(0, mount->group.size(), mount->group) == 0)
    below = below.substr(mount->group.size());
  if (below.find("..") != std::string::npos) below.clear();
  for (;;) {
    while (!below.empty() && below.back() == '/') below.pop_back();
    const auto left = left_in(root + mount->point + below, second_version, swap_free);
    if (left && *left < least.bytes)
      least = {*left, "the control group " + (below.empty() ? std::string("/") : below) + " of this process"};
    if (below.empty()) return;
    below.erase(below.rfind('/') == std::string::npos ? 0 : below.rfind('/'));
  }
}

}  // namespace

MemoryLeft memory_left(const std::string& root) {
  MemoryLeft least;
  constexpr uint64_t kUnitBytes = 1024;
  const std::string machine = root + "/proc/meminfo";
  const uint64_t available = sum_in(machine, {"MemAvailable:"}) * kUnitBytes;
  const uint64_t swap_free = sum_in(machine, {"SwapFree:"}) * kUnitBytes;
  if (available > 0) least = {available + swap_free, "the machine"};
  look_at_groups(root, true, swap_free, least);
  look_at_groups(root, false, swap_free, least);
  return least;
}

}  // namespace cairn
