#include "base/advice.h"

#include <sys/resource.h>

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

namespace {

bool limited(int resource, rlim_t& most) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return false;
  most = limit.rlim_cur;
  return true;
}

}  // namespace

std::string advice_on_memory() {
  rlim_t most = 0;
  if (limited(RLIMIT_AS, most)) {
    return "; the process may have " + std::to_string(most >> 20) +
           " MiB of address space: raise that (ulimit -v, LimitAS= of the unit), or ask for less";
  }
  return "; ask for less, give the process more memory (its control group), or let the machine promise more than it "
         "has "
         "(sysctl vm.overcommit_memory)";
}

std::string advice_on_locked_memory() {
  rlim_t most = 0;
  if (limited(RLIMIT_MEMLOCK, most)) {
    return "; the process may lock " + std::to_string(most >> 10) +
           " KiB of memory: raise that (ulimit -l, LimitMEMLOCK=infinity of the unit)";
  }
  return "; the process may lock as much memory as it likes, so the machine or the device has no more";
}

const char* advice_on_threads() {
  return "; raise the limit of tasks: pids.max of the control group (TasksMax= of the unit, --pids-limit of the "
         "container), "
         "or of processes of the user (ulimit -u, LimitNPROC=)";
}

std::string cause_and_advice(int number) {
  return std::strerror(number) + std::string(advice_for(number));
}

}  // namespace cairn
