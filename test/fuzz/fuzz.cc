// Reads damaged text, again and again: whatever a reader of the library is given, it accepts it or throws Error. Run by
// ctest with a number of cases, and for longer under the sanitizers (CONTRIBUTING.md).
//
//   fuzz [--cases N | --seconds S] [--seed K] [--reader NAME] [--first I]
//
// A case is a function of the reader, the seed and its number. Findings: a crash or what a sanitizer reports; an
// exception that is no Error; memory out of proportion to the text (below); text that is written and read again as
// another. Each prints the line that runs its case alone, and ends the program.
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string>

#include "fuzz/mutate.h"
#include "fuzz/reader.h"
#include "longstride/error.h"

// Of the sanitizers' runtime, where there is one.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

#ifdef LONGSTRIDE_FUZZ_COUNTS_MEMORY
// Every allocation by new is counted: what lives, and the most that did.
namespace {
thread_local int64_t live_bytes = 0;
thread_local int64_t peak_bytes = 0;

void* counted(size_t bytes, size_t alignment) {
  void* memory = alignment <= __STDCPP_DEFAULT_NEW_ALIGNMENT__
                     ? std::malloc(bytes)
                     : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  live_bytes += static_cast<int64_t>(malloc_usable_size(memory));
  peak_bytes = std::max(peak_bytes, live_bytes);
  return memory;
}

void released(void* memory) {
  live_bytes -= static_cast<int64_t>(malloc_usable_size(memory));
  std::free(memory);
}
}  // namespace

void* operator new(size_t bytes) { return counted(bytes, 0); }
void* operator new(size_t bytes, std::align_val_t alignment) { return counted(bytes, static_cast<size_t>(alignment)); }
void operator delete(void* memory) noexcept { released(memory); }
void operator delete(void* memory, size_t) noexcept { released(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { released(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { released(memory); }
#endif

namespace longstride::fuzz {

void require(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

namespace {

// A value of JSON is 16 bytes in a list that doubles as it grows, and needs two bytes of text; members of objects have
// their keys beside them, and messages name all keys that there are.
constexpr int64_t kBytesPerByte = 128;
constexpr int64_t kBytesAtLeast = 1 << 20;

char running[200] = "";  // the line that runs the case alone

void report() {
  (void)!write(2, "finding; again by: ", 19);
  (void)!write(2, running, std::strlen(running));
}

extern "C" void on_signal(int signal) {
  report();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

struct Command {
  uint64_t cases = 0;
  double seconds = 0;
  uint64_t seed = 1;
  std::string reader;
  uint64_t first = 0;
};

[[noreturn]] void usage() {
  std::fprintf(stderr, "usage: fuzz [--cases N | --seconds S] [--seed K] [--reader NAME] [--first I]\n");
  std::exit(2);
}

Command command_of(int count, char** words) {
  Command command;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string option = words[i];
    const char* value = words[i + 1];
    if (option == "--cases") {
      command.cases = std::strtoull(value, nullptr, 10);
    } else if (option == "--seconds") {
      command.seconds = std::strtod(value, nullptr);
    } else if (option == "--seed") {
      command.seed = std::strtoull(value, nullptr, 10);
    } else if (option == "--reader") {
      command.reader = value;
    } else if (option == "--first") {
      command.first = std::strtoull(value, nullptr, 10);
    } else {
      usage();
    }
  }
  if (count % 2 == 0 || (command.cases == 0) == (command.seconds == 0)) usage();
  return command;
}

std::string refusal;  // the last

// Whether the reader accepted the text. Any finding ends the program.
bool run(const Reader& reader, const std::string& text) {
  bool accepted = false;
  std::string finding;
#ifdef LONGSTRIDE_FUZZ_COUNTS_MEMORY
  const int64_t before = live_bytes;
  peak_bytes = before;
#endif
  try {
    reader.read(text);
    accepted = true;
  } catch (const Error& error) {
    refusal = error.what();
  } catch (const std::exception& error) {
    finding = error.what();
  } catch (...) {
    finding = "an exception of no known kind";
  }
#ifdef LONGSTRIDE_FUZZ_COUNTS_MEMORY
  const int64_t taken = peak_bytes - before,
                allowed = kBytesAtLeast + kBytesPerByte * static_cast<int64_t>(text.size());
  if (taken > allowed) {
    finding = std::to_string(taken) + " bytes of memory for " + std::to_string(text.size()) + " of text";
  }
#endif
  if (finding.empty()) return accepted;
  std::fprintf(stderr, "%s: %s\n", reader.name, finding.c_str());
  report();
  std::exit(1);
}

// Case `number` of a reader; the first ones are its seeds as they are.
void run_case(const Reader& reader, uint64_t seed, uint64_t number, uint64_t& accepted) {
  std::snprintf(running, sizeof(running), "fuzz --reader %s --seed %llu --first %llu --cases 1\n", reader.name,
                static_cast<unsigned long long>(seed), static_cast<unsigned long long>(number));
  if (number < reader.seeds.size()) {
    if (run(reader, reader.seeds[number])) {
      ++accepted;
      return;
    }
    std::fprintf(stderr, "%s: refuses its own seed: %s\n", reader.name, refusal.c_str());
    report();
    std::exit(1);
  }
  std::seed_seq mixed{seed, seed >> 32, number, number >> 32};
  Generator generator(mixed);
  accepted += run(reader, mutated(reader.seeds, generator));
}

int main_of(const Command& command) {
  std::vector<Reader> readers = text_readers();
#ifdef LONGSTRIDE_FUZZ_MODELS
  std::vector<Reader> more = model_readers();
  std::move(more.begin(), more.end(), std::back_inserter(readers));
#endif
  std::erase_if(readers, [&](const Reader& r) { return !command.reader.empty() && command.reader != r.name; });
  if (readers.empty()) usage();
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(report);
  } else {
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, on_signal);
  }
  for (const int signal : {SIGABRT, SIGALRM}) std::signal(signal, on_signal);

  // Readers take turns, so that time is shared by cases and not by names.
  constexpr uint64_t kTurn = 256;
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  std::vector<uint64_t> done(readers.size()), accepted(readers.size());
  const auto goes_on = [&](uint64_t cases) {
    if (command.seconds == 0) return cases < command.cases;
    return std::chrono::duration<double>(Clock::now() - start).count() < command.seconds;
  };
  while (goes_on(done.back())) {
    for (size_t r = 0; r < readers.size(); ++r) {
      for (uint64_t i = 0; i < kTurn && (command.cases == 0 || done[r] < command.cases); ++i) {
        alarm(60);  // a text that is read for a minute is a finding too
        run_case(readers[r], command.seed, command.first + done[r]++, accepted[r]);
      }
    }
  }
  for (size_t r = 0; r < readers.size(); ++r) {
    std::printf("%-12s %10llu cases, %llu accepted\n", readers[r].name, static_cast<unsigned long long>(done[r]),
                static_cast<unsigned long long>(accepted[r]));
  }
  return 0;
}

}  // namespace
}  // namespace longstride::fuzz

int main(int count, char** words) { return longstride::fuzz::main_of(longstride::fuzz::command_of(count, words)); }
