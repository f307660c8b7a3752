// The one error that longstride throws for bad input. Every room throws it; Python sees it as ValueError.
#pragma once

#include <stdexcept>
#include <string>

namespace longstride {

// Bad input: thrown before any work is done, so that after it every tensor, module and file is as it was.
// The message names the argument, what it was, what it must be, and what to do.
class Error : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

}  // namespace longstride
