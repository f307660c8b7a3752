// A program that starts itself once for every rank, and what its processes say of what they find.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

namespace longstride::test {

void expect(bool holds, const std::string& what);  // says what does not, on stderr
void expect_near(const at::Tensor& got, const at::Tensor& wanted, double tolerance, const std::string& what);
// That `body` throws an Error with `says` in it.
void expect_refused(const std::string& says, const std::function<void()>& body);
int failures();  // of this process so far

// main() of such a program. `PROGRAM RANKS` starts `PROGRAM RANKS RANK FILE` for each rank, which calls of_rank(rank,
// ranks, file), and is done when all are; 0 if all gave 0.
int run_ranks(int count, char** arguments, const std::function<int(int, int, const std::string&)>& of_rank);

}  // namespace longstride::test
