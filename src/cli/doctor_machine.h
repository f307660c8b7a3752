// What machine and which build this is: named in every table of bench and printed by doctor.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace longstride::cli {

struct Machine {
  std::string processor;                  // as the kernel names it, with family and model where it tells
  int64_t processors = 0;                 // that this process may use
  int64_t threads = 0;                    // that LibTorch uses
  std::string torch_version;              // "2.6.0"
  std::string torch_instructions;         // the widest instruction set that LibTorch uses here
  std::vector<std::string> instructions;  // of those that matter to attention, what the processor has
  int64_t memory_bytes = 0;
  int64_t free_bytes = 0;  // what could be had without swapping
  std::string commit;      // of this build; "+changes" if the tree differed from it
  std::string compiler;
};
Machine this_machine();

// Of the line "key: N kB" of a file in /proc; 0 if there is none.
int64_t proc_bytes(const char* path, const std::string& key);

// "AMD EPYC 9V74 (family 25, model 17), 2 threads, LibTorch 2.6.0, longstride 0123456789ab".
std::string machine_words(const Machine& machine);
nlohmann::json machine_json(const Machine& machine);

}  // namespace longstride::cli
