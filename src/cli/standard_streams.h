// Standard output that is full, closed or gone is a failure, not silence; and lines for people on standard error,
// progress and notes, are dropped where they cannot be written (it is closed, full, a pipe that nobody reads, a
// terminal that is gone), for no work may end for want of them. Called by main at both ends of a run, and by every
// command that computes or prints for long. Torch-free.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

namespace longstride::cli {

// To be called before any file is opened: descriptors 0 to 2 that are closed would be given to the next files, into
// which all that is printed would go. They are held open instead; what is read from 0 or written to 1 fails.
void hold_standard_files();

// Sends what is buffered on its way. Throws std::runtime_error if any of what was printed so far could not be written.
void flush_output();

// Writes `text` to standard error as it is, at once; what cannot be written is dropped.
void tell_text(const std::string& text);

// A line: the words and a newline.
template <class... Values>
void tell(fmt::format_string<Values...> words, Values&&... values) {
  tell_text(fmt::format(words, std::forward<Values>(values)...) + "\n");
}

}  // namespace longstride::cli
