// A backend of a process group whose messages go through the group's store: LibTorch's packages have no headers of
// Gloo, and what is tested is what we ask of a group. Collectives run when they are posted.
#pragma once

#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace longstride::test {

// `ranks` processes that share the file.
c10::intrusive_ptr<c10d::ProcessGroup> group_of(const std::string& file, int rank, int ranks, const std::string& name);

// Every collective from now on fails on this process, before it sends anything.
void break_backends();

}  // namespace longstride::test
