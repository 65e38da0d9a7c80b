// What a person can do about an errno, whatever it was that failed.
#pragma once

#include <string>

namespace cairn {

// The end of a sentence, such as "; free some space, or ask for less"; empty where nothing can be said in general.
const char* advice_for(int number);
// What the errno is called, and what to do.
std::string cause_and_advice(int number);

// … where memory could not be mapped, where it could not be locked or pinned, and where no thread could be started:
// each names the limit that the process has, where it has one.
std::string advice_on_memory();
std::string advice_on_locked_memory();
const char* advice_on_threads();

}  // namespace cairn
