"""Starts the ranks of a test as processes of their own, and ends them."""

import os
import subprocess
import sys
import time

SECONDS = 900  # against hangs alone


def run_ranks(script, ranks, folder, *arguments, expected=None, meanwhile=None):
    """Runs `script RANK FOLDER arguments...` for every rank until all have ended; a rank that fails ends the others.

    Args:
        expected: exit codes by rank; None: all 0. A rank that ends with the one expected of it ends nobody.
        meanwhile: called with the processes and their codes so far, over and over.
    Returns:
        What each rank wrote to stdout and stderr, if the codes are those expected; else the test fails with it.
    """
    expected = [0] * ranks if expected is None else expected
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    logs = [open(folder / f"{rank}.log", "w+") for rank in range(ranks)]
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), folder, *arguments], stderr=log, stdout=log, env=environment
        )
        for rank, log in enumerate(logs)
    ]
    end = time.monotonic() + SECONDS
    try:
        while None in (codes := [process.poll() for process in processes]) and time.monotonic() < end:
            if any(code not in (None, wanted) for code, wanted in zip(codes, expected)):  # the others would wait for it
                break
            if meanwhile is not None:
                meanwhile(processes, codes)
            time.sleep(0.1)
    finally:
        for process, log in zip(processes, logs):
            process.kill()
            process.wait()
            log.close()
    texts = [(folder / f"{rank}.log").read_text() for rank in range(ranks)]
    assert codes == expected, "\n".join(texts)
    return texts
