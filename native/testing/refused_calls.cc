#include "testing/refused_calls.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cairn {

namespace {

bool install(std::vector<sock_filter> program) {
  sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

sock_filter load(size_t offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset));
}

// Goes on behind the next instruction but `skipped` when what was loaded is something else.
sock_filter unless_equal(uint32_t value, uint8_t skipped) {
  return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skipped);
}

sock_filter refuse(int error) {
  return BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error));
}

sock_filter allow() {
  return BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
}

}  // namespace

bool refuse_call(long number, int error) {
  return install(
      {load(offsetof(seccomp_data, nr)), unless_equal(static_cast<uint32_t>(number), 1), refuse(error), allow()});
}

bool refuse_call(long number, int error, uint32_t fourth_argument) {
  // The lower half, which comes first.
  return install({load(offsetof(seccomp_data, nr)), unless_equal(static_cast<uint32_t>(number), 3),
                  load(offsetof(seccomp_data, args[3])), unless_equal(fourth_argument, 1), refuse(error), allow()});
}

}  // namespace cairn
