// Ctrl-C as a request: the first one (or a SIGTERM, or the end of the terminal) is noted, so that a run can save and
// stop; the second kills as usual. Called by train. Torch-free.
#pragma once

namespace longstride::cli {

// From now on SIGINT, SIGTERM and, unless it is ignored, SIGHUP are noted, once each.
void note_interrupts();
bool interrupted();

}  // namespace longstride::cli
