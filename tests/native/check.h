// What every native test asserts with. A failure aborts, so that a fuzzer, a debugger and ctest all see it.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>

inline void check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "this property does not hold: %s\n", what);
  std::abort();
}

// Checks that a call throws std::invalid_argument with the given text in its message.
inline void check_refused(const std::string& message, const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    check(std::string(error.what()).find(message) != std::string::npos, error.what());
    return;
  }
  check(false, message.c_str());
}
