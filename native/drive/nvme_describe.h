// What an NVMe namespace offers, for a person to read before it is made a drive.
#pragma once

#include <string>

#include "base/result.h"

namespace cairn {

// Asks the namespace behind a character device (/dev/ng0n1) and the kernel; JSON. Nothing is locked, so a drive that a
// service uses may be asked as well, and no block of it is read. An error says what of it Cairn cannot use.
Result<std::string> describe_nvme(const std::string& path);

}  // namespace cairn
