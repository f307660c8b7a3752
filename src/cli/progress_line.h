// What a long run shows on stderr: one line that is rewritten on a terminal, a plain line now and then elsewhere.
// Called by train and eval. Torch-free.
#pragma once

#include <chrono>
#include <string>

namespace longstride::cli {

class ProgressLine {
 public:
  // quiet: shows nothing at all. every_seconds: how far apart plain lines stand where stderr is no terminal.
  explicit ProgressLine(bool quiet, double every_seconds = 10.0);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // share: of the work, in [0, 1]. text stands after the bar and is cut at the terminal's width.
  void update(double share, const std::string& text);
  // A line that stays, above the bar.
  void note(const std::string& text);
  // Takes the bar away, or ends its line if `keep`.
  void finish(bool keep);

 private:
  bool quiet_;
  bool terminal_;
  bool shown_ = false;
  double every_seconds_;
  std::chrono::steady_clock::time_point last_;
  std::string line_;
};

}  // namespace longstride::cli
