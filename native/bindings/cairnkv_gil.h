// Python's lock, given back and taken again by threads that the interpreter may not wait for.
//
// An interpreter that ends (Python 3.11 to 3.13) ends every other thread that asks for its lock: by pthread_exit(),
// which unwinds the thread's stack through whatever is on it. Destructors and nanobind's functions let nothing through,
// and the process aborts. So the unwinding is caught where it begins, and the thread sleeps until the process is over,
// as it does from Python 3.14 on.
#pragma once

#include <cxxabi.h>
#include <nanobind/nanobind.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <utility>

#include "base/clock.h"
#include "base/patience.h"

namespace cairn {

namespace nb = nanobind;

[[noreturn]] inline void sleep_until_the_process_ends() noexcept {
  for (;;) ::pause();
}

// Set behind the last that an interpreter does: from then on its state must not be looked at.
inline std::atomic<bool> python_is_gone{false};

inline void take_python_lock(PyThreadState* state) noexcept {
  if (python_is_gone) sleep_until_the_process_ends();
  try {
    PyEval_RestoreThread(state);
  } catch (const abi::__forced_unwind&) {
    sleep_until_the_process_ends();
  }
}

// Runs what may run code of the caller's (destructors, __len__, __buffer__), and so lose the lock and want it again.
template <class Step>
decltype(auto) in_python(Step&& step) {
  try {
    return step();
  } catch (const abi::__forced_unwind&) {
    sleep_until_the_process_ends();
  }
}

// Of the exceptions that reach nanobind, an unwinding is the only one that is no object. It may come from whatever
// Python code nanobind itself runs between its arguments and our results.
inline void catch_unwinding(const std::exception_ptr& exception, void*) {
  if (exception == nullptr) sleep_until_the_process_ends();
  std::rethrow_exception(exception);
}

inline void watch_for_the_end() {
  nb::register_exception_translator(&catch_unwinding, nullptr);
  (void)Py_AtExit([] { python_is_gone = true; });
}

class PythonReleased {
 public:
  PythonReleased() : state_(PyEval_SaveThread()) {}
  ~PythonReleased() { take_python_lock(state_); }
  PythonReleased(const PythonReleased&) = delete;
  PythonReleased& operator=(const PythonReleased&) = delete;

 private:
  PyThreadState* state_;
};

// A call without the lock, in which signals are handled: Python's handlers run in its main thread, between two slices
// of what it waits for. One that raises ends the wait where that can be; finish() tells it behind the call.
class SignalsHandled final : public Interruption {
 public:
  SignalsHandled() : state_(PyEval_SaveThread()), looked_ms_(system_clock().now_ms()) {}
  ~SignalsHandled() { resume(); }
  SignalsHandled(const SignalsHandled&) = delete;
  SignalsHandled& operator=(const SignalsHandled&) = delete;

  bool requested() override {
    const uint64_t now_ms = system_clock().now_ms();
    if (raised_ || now_ms - looked_ms_ < kEveryMs) return raised_;
    looked_ms_ = now_ms;
    take_python_lock(state_);
    raised_ = in_python([] { return PyErr_CheckSignals() != 0; });  // the error stays this thread's
    state_ = PyEval_SaveThread();
    return raised_;
  }

  // The call is over: takes the lock.
  void resume() {
    if (PyThreadState* state = std::exchange(state_, nullptr)) take_python_lock(state);
  }
  // … and throws what a handler raised.
  void finish() {
    resume();
    if (raised_) throw nb::python_error();
  }

 private:
  PyThreadState* state_;
  uint64_t looked_ms_;
  bool raised_ = false;
};

}  // namespace cairn
