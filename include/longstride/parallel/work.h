// Waiting for what a process group does, so that a rank that has ended is heard of on a GPU too. longstride/parallel.h
// waits so, and the trainer.
#pragma once

#include "longstride/parallel.h"

namespace longstride {

// Until `work` of the group on tensors of `device` is over; then the current stream waits for it. Of a GPU the stream
// alone could wait as well, but nothing would be heard of a rank that has ended: the process polls, gives up before the
// group's timeout, at which NCCL would end the process, and aborts what still waits on the device. Throws what the
// backend does, and std::runtime_error.
void await_work(c10d::Work& work, const RankGroup& group, at::Device device);

}  // namespace longstride
