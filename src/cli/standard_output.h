// Standard output that is full, closed or gone is a failure, not silence. Called by main at both ends of a run, and
// while a command prints for long. Torch-free.
#pragma once

namespace longstride::cli {

// To be called before any file is opened: descriptors 0 to 2 that are closed would be given to the next files, into
// which all that is printed would go. They are held open instead; what is read from 0 or written to 1 fails.
void hold_standard_files();

// Sends what is buffered on its way. Throws std::runtime_error if any of what was printed so far could not be written.
void flush_output();

}  // namespace longstride::cli
