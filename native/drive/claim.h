// How a device or a file is opened for one service alone.
#pragma once

#include <string>

#include "drive/descriptor.h"
#include "drive/drive.h"

namespace cairn {

// What went wrong with open(), and what to do.
Error open_error(int number, const std::string& path);

// open() with O_CLOEXEC, for reading and, unless options.read_only, writing; `flags` are added.
Result<Descriptor> open_path(const std::string& path, int flags, const DriveOptions& options);

// Takes the lock (flock) that makes a second service, or command, stay away. It ends with the descriptor. One that is
// held is waited for, options.lock_ms_most at most.
Result<Unit> lock(const Descriptor& file, const std::string& path, const DriveOptions& options);

}  // namespace cairn
