#include "base/background.h"

#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <functional>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

namespace cairn {

namespace {

constexpr size_t kNameBytesMost = 15;

}  // namespace

Result<std::thread> start_thread(const char* name, std::function<void()> body) {
  CAIRN_CHECK(std::strlen(name) <= kNameBytesMost, "a thread has a longer name than the system keeps");
  sigset_t all, before;
  sigfillset(&all);
  const bool blocked = pthread_sigmask(SIG_SETMASK, &all, &before) == 0;
  int number = 0;
  std::thread started;
  try {
    started = std::thread([name, body = std::move(body)] {
      (void)pthread_setname_np(pthread_self(), name);
      try {
        body();
      } catch (const std::exception&) {
        return;  // what it was for has a deadline of its own
      }
    });
  } catch (const std::system_error& error) {
    number = error.code().value();
  } catch (const std::bad_alloc&) {
    number = ENOMEM;
  }
  if (blocked) (void)pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (number != 0) return Error{number, "cannot start a thread: " + cause_and_advice(number), 0};
  return started;
}

}  // namespace cairn
