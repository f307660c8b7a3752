// Reading, splitting and ordering text: files of a path, the share held out, and windows in an order drawn by the
// seed.
#include "train/corpus.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "core/files.h"
#include "longstride/error.h"

namespace longstride::train {
namespace {

namespace fs = std::filesystem;

struct Source {
  std::string name;
  fs::path path;
};

bool looks_binary(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  char head[8000];
  in.read(head, sizeof head);
  return std::memchr(head, 0, static_cast<size_t>(in.gcount())) != nullptr;
}

bool extension_matches(const fs::path& path, const std::vector<std::string>& extensions) {
  const std::string own = path.extension().string();
  return std::any_of(extensions.begin(), extensions.end(), [&](const std::string& wanted) {
    return own == (wanted.rfind('.', 0) == 0 ? wanted : "." + wanted);
  });
}

// What cannot be looked at is refused, for a text of which a part is left out is another text.
[[noreturn]] void refuse_unreadable(const fs::path& path, const std::error_code& error) {
  throw Error(fmt::format("cannot read '{}': {}; make it readable, or name the files and folders beside it",
                          path.string(), error.message()));
}

void walk(const fs::path& root, const std::vector<std::string>& extensions, std::vector<Source>& sources) {
  std::error_code error;
  const auto check = [&](const fs::path& path) {
    if (error) refuse_unreadable(path, error);
  };
  std::vector<fs::path> folders = {root};
  while (!folders.empty()) {
    const fs::path folder = std::move(folders.back());
    folders.pop_back();
    fs::directory_iterator it(folder, error);
    for (check(folder); it != fs::directory_iterator(); it.increment(error), check(folder)) {
      const fs::path& path = it->path();
      if (path.filename().string().rfind('.', 0) == 0) continue;
      const fs::file_status status = it->symlink_status(error);
      check(path);
      if (fs::is_directory(status)) folders.push_back(path);
      if (!fs::is_regular_file(status)) continue;
      const uintmax_t size = it->file_size(error);
      check(path);
      if (size == 0 || (extensions.empty() ? looks_binary(path) : !extension_matches(path, extensions))) continue;
      sources.push_back({path.lexically_relative(root).generic_string(), path});
    }
  }
}

// The files behind `paths`, each once, sorted by name.
std::vector<Source> list_sources(const std::vector<std::string>& paths, const std::vector<std::string>& extensions) {
  std::vector<Source> sources;
  for (const std::string& path : paths) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (status.type() == fs::file_type::not_found) throw Error(fmt::format("no such file or folder: '{}'", path));
    if (!fs::status_known(status) || status.type() == fs::file_type::none) refuse_unreadable(path, error);
    if (fs::is_directory(status)) {
      walk(path, extensions, sources);
    } else if (fs::is_regular_file(status)) {
      sources.push_back({fs::path(path).filename().string(), path});
    } else {
      throw Error(fmt::format("'{}' is neither a file nor a folder", path));
    }
  }
  std::set<fs::path> seen;
  std::erase_if(sources, [&](const Source& source) { return !seen.insert(fs::canonical(source.path)).second; });
  std::sort(sources.begin(), sources.end(),
            [](const Source& a, const Source& b) { return a.name != b.name ? a.name < b.name : a.path < b.path; });
  if (sources.empty()) {
    const std::string filter =
        extensions.empty() ? "text files" : fmt::format("files ending in {}", fmt::join(extensions, ", "));
    throw Error(fmt::format("no {} in {}; give other paths{}", filter, fmt::join(paths, ", "),
                            extensions.empty() ? "" : " or another --ext"));
  }
  return sources;
}

void append(Text& text, const std::string& name, std::string_view bytes) {
  if (bytes.empty()) return;
  text.documents.push_back({name, text.bytes.size(), bytes.size()});
  text.bytes.append(bytes);
  text.bytes.push_back(kFileSeparator);
}

struct Split {
  std::vector<Source> train;
  std::vector<Source> held_out;
};

Split split_sources(const CorpusOptions& options) {
  if (options.paths.empty()) throw Error("no text given; name files or folders to read");
  if (!(options.held_out_share >= 0.0 && options.held_out_share < 1.0)) {
    throw Error(fmt::format("--held-out-share must be in [0, 1), got {}", options.held_out_share));
  }
  Split split;
  std::vector<Source> sources = list_sources(options.paths, options.extensions);
  if (!options.held_out_paths.empty()) {
    split.held_out = list_sources(options.held_out_paths, options.extensions);
    std::set<fs::path> held;
    for (const Source& source : split.held_out) held.insert(fs::canonical(source.path));
    std::erase_if(sources, [&](const Source& source) { return held.contains(fs::canonical(source.path)); });
    split.train = std::move(sources);
    return split;
  }
  // Files are held out in the order of the hash of their names: the share is met, and a file keeps its side when others
  // come and go nearby.
  std::vector<std::pair<uint64_t, size_t>> by_hash;
  for (size_t i = 0; i < sources.size(); ++i)
    by_hash.push_back({hash_bytes(sources[i].name.data(), sources[i].name.size()), i});
  std::sort(by_hash.begin(), by_hash.end());
  size_t held = static_cast<size_t>(std::llround(options.held_out_share * static_cast<double>(sources.size())));
  if (held == 0 && options.held_out_share > 0.0 && sources.size() > 1) held = 1;
  held = std::min(held, sources.size() - 1);
  std::set<size_t> chosen;
  for (size_t i = 0; i < held; ++i) chosen.insert(by_hash[i].second);
  for (size_t i = 0; i < sources.size(); ++i) (chosen.contains(i) ? split.held_out : split.train).push_back(sources[i]);
  return split;
}

Text read_text(const std::vector<Source>& sources) {
  Text text;
  for (const Source& source : sources) append(text, source.name, core::read_input("", source.path.string()));
  return text;
}

// One file and a share: the file's tail is the held-out text.
bool is_tail_split(const CorpusOptions& options, const Split& split) {
  return options.held_out_paths.empty() && options.held_out_share > 0.0 && split.held_out.empty() &&
         split.train.size() == 1;
}

Corpus split_tail(const CorpusOptions& options, const Source& source) {
  const std::string bytes = core::read_input("", source.path.string());
  const size_t cut = bytes.size() - static_cast<size_t>(options.held_out_share * static_cast<double>(bytes.size()));
  Corpus corpus;
  append(corpus.train, source.name, std::string_view(bytes).substr(0, cut));
  append(corpus.held_out, source.name, std::string_view(bytes).substr(cut));
  return corpus;
}

uint64_t hash_text(const Text& text, uint64_t hash) {
  for (const Document& document : text.documents)
    hash = hash_bytes(document.name.data(), document.name.size() + 1, hash);
  hash = hash_bytes("|", 1, hash);
  return hash_bytes(text.bytes.data(), text.bytes.size(), hash);
}

}  // namespace

uint64_t hash_bytes(const char* data, size_t size, uint64_t hash) {
  for (size_t i = 0; i < size; ++i) {
    hash ^= static_cast<unsigned char>(data[i]);
    hash *= 1099511628211ull;
  }
  return hash;
}

Corpus read_corpus(const CorpusOptions& options) {
  const Split split = split_sources(options);
  Corpus corpus;
  if (is_tail_split(options, split)) {
    corpus = split_tail(options, split.train.front());
  } else {
    corpus.train = read_text(split.train);
    corpus.held_out = read_text(split.held_out);
  }
  if (corpus.train.bytes.empty()) throw Error("no text is left to train on: all of it is held out or empty");
  corpus.fingerprint = hash_text(corpus.held_out, hash_text(corpus.train, kHashStart));
  return corpus;
}

WindowOrder::WindowOrder(size_t text_bytes, int64_t context, uint64_t seed)
    : text_bytes_(text_bytes),
      context_(context),
      seed_(seed),
      windows_(static_cast<int64_t>(text_bytes) / std::max<int64_t>(context, 1)) {
  if (context < 1) throw Error(fmt::format("--context must be at least 1 byte, got {}", context));
  if (text_bytes < static_cast<size_t>(context) + 1) {
    throw Error(fmt::format(
        "the text to train on has {} bytes, too few for a --context of {}; give more text or a shorter context",
        text_bytes, context));
  }
}

size_t WindowOrder::start(int64_t sample) {
  const int64_t epoch = sample / windows_;
  if (epoch != epoch_) {
    std::seed_seq words{static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32), static_cast<uint32_t>(epoch)};
    std::mt19937_64 random(words);
    phase_ = random() % text_bytes_;
    order_.resize(static_cast<size_t>(windows_));
    for (int64_t i = 0; i < windows_; ++i) order_[i] = i;
    for (int64_t i = windows_ - 1; i > 0; --i) std::swap(order_[i], order_[random() % static_cast<uint64_t>(i + 1)]);
    epoch_ = epoch;
  }
  return (phase_ + static_cast<size_t>(order_[sample % windows_] * context_)) % text_bytes_;
}

std::vector<size_t> scoring_windows(const Text& text, size_t size, size_t count, bool across_documents) {
  std::vector<size_t> all;
  if (across_documents) {
    for (size_t end = text.bytes.size(); end >= size; end -= size) all.push_back(end - size);
  } else {
    for (const Document& document : text.documents) {
      for (size_t end = document.size; end >= size; end -= size) all.push_back(document.start + end - size);
    }
  }
  std::sort(all.begin(), all.end());
  if (all.size() <= count) return all;
  std::vector<size_t> chosen;
  for (size_t i = 0; i < count; ++i) chosen.push_back(all[(2 * i + 1) * all.size() / (2 * count)]);
  return chosen;
}

}  // namespace longstride::train
