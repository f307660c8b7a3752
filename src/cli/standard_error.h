// Lines for people on standard error: progress and notes. One that cannot be written (standard error is closed, full, a
// pipe that nobody reads, a terminal that is gone) is dropped, for no work may end for want of it. Called by every
// command that computes for long. Torch-free.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

namespace longstride::cli {

// Writes `text` as it is, at once; what cannot be written is dropped.
void tell_text(const std::string& text);

// A line: the words and a newline.
template <class... Values>
void tell(fmt::format_string<Values...> words, Values&&... values) {
  tell_text(fmt::format(words, std::forward<Values>(values)...) + "\n");
}

}  // namespace longstride::cli
