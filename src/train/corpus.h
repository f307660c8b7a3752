// Text as bytes: which files a run reads, which of them it holds out, and which bytes each training sample gets. Called
// by train and eval. Everything here is a function of the files' bytes and names, the options and a seed. Torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longstride::train {

// The byte between two files of a text. It stands in no text file, so the model can see where a file ends.
inline constexpr char kFileSeparator = '\0';

struct Document {
  std::string name;  // path below the folder that was named, or the file's own name; '/' between the parts
  size_t start = 0;  // of its first byte in Text::bytes
  size_t size = 0;   // without the separator
};

struct Text {
  std::string bytes;                // the documents in the order of their names, a separator after each
  std::vector<Document> documents;  // sorted by name
};

struct CorpusOptions {
  std::vector<std::string> paths;           // files, or folders read to any depth
  std::vector<std::string> extensions;      // with or without the dot; empty: every file that is text
  std::vector<std::string> held_out_paths;  // files or folders held out; taken away from the training files
  double held_out_share = 0.05;  // share of files held out by a hash of their names; unused with held_out_paths
};

struct Corpus {
  Text train;
  Text held_out;             // may be empty
  uint64_t fingerprint = 0;  // of all names and bytes and of the split: equal iff a run can go on where it was
};

// Reads the files. In folders, hidden entries, symbolic links and empty files are passed over, and without `extensions`
// also binary files (a zero among the first 8,000 bytes). If there is but one file, its tail is held out. Throws Error
// for a path that does not exist, a filter that matches nothing, a share outside [0, 1), or nothing left to train on.
Corpus read_corpus(const CorpusOptions& options);

// FNV-1a, 64 bits, going on from `hash`.
inline constexpr uint64_t kHashStart = 14695981039346656037ull;
uint64_t hash_bytes(const char* data, size_t size, uint64_t hash = kHashStart);

// Which bytes sample i of a run holds. An epoch cuts the text, taken as a ring, into windows of `context` bytes at a
// random phase, and takes each once in random order; so a sample is a function of (text size, context, seed, i) and the
// position of a run in its data is one number.
class WindowOrder {
 public:
  // Throws Error if the text has fewer than context + 1 bytes.
  WindowOrder(size_t text_bytes, int64_t context, uint64_t seed);
  // Where sample i starts; it takes context + 1 bytes from there, going round at the end of the text.
  size_t start(int64_t sample);
  int64_t windows_per_epoch() const { return windows_; }

 private:
  size_t text_bytes_;
  int64_t context_;
  uint64_t seed_;
  int64_t windows_;
  int64_t epoch_ = -1;  // the epoch that order_ and phase_ belong to
  size_t phase_ = 0;
  std::vector<int64_t> order_;
};

// Starts of at most `count` windows of `size` bytes for scoring. Each lies in one document and ends where the document
// or the window after it ends, spread evenly over all that fit; with `across_documents`, evenly over the whole text.
std::vector<size_t> scoring_windows(const Text& text, size_t size, size_t count, bool across_documents);

}  // namespace longstride::train
