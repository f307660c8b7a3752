// Damaged text: what a seeded generator makes of the seeds of a reader. Called by fuzz.cc.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace longstride::fuzz {

using Generator = std::mt19937_64;

// One of `seeds` after up to eight changes: of bits and bytes, of spans (left out, repeated, exchanged with another
// seed's), and of what JSON is made of (a number or word exchanged for one that lies at an edge, a member given twice,
// a value nested in thousands of lists).
std::string mutated(const std::vector<std::string>& seeds, Generator& generator);

}  // namespace longstride::fuzz
