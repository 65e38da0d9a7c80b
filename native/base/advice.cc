#include "base/advice.h"

#include <cerrno>
#include <cstring>
#include <string>

namespace cairn {

const char* advice_for(int number) {
  switch (number) {
    case EIO:
      return "; the device or its file system has a fault: the kernel's log (dmesg) says more";
    case ENODEV:
    case ENXIO:
      return "; look whether the device is still connected: the kernel's log (dmesg) says more";
    case ETIMEDOUT:
      return "; the device does not answer: the kernel's log (dmesg) says more";
    case ENOSPC:
    case EDQUOT:
      return "; free some space, or ask for less";
    case ENOMEM:
      return "; free some memory, or raise the limits of the unit, the container and the shell (ulimit -a)";
    case EMFILE:
      return "; raise the limit of open files (LimitNOFILE= of the unit, ulimit -n of the shell)";
    case ENFILE:
      return "; raise the machine's limit of open files (sysctl fs.file-max)";
    case EPERM:
    case EACCES:
      return "; the user of the service, its container's seccomp profile or a security module forbids it";
    case EINTR:
    case EAGAIN:
    case EBUSY:
      return "; try again in a moment";
    default:
      return "";
  }
}

std::string cause_and_advice(int number) {
  return std::strerror(number) + std::string(advice_for(number));
}

}  // namespace cairn
