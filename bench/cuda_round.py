#!/usr/bin/env python3
"""The figures of the second round in one call: every case of ours beside its peer, timed in turns, a line of JSON each.

    python3 bench/cuda_round.py --out round.jsonl                   # on a GPU, up to 9 minutes
    python3 bench/cuda_round.py --only 'LongNet|sm80' --budget 120
    python3 bench/cuda_round.py --device cpu --scale 1024           # a dry run: that everything runs, not how long it takes
    python3 bench/cuda_round.py --summary round.jsonl [--page docs/ladder.md] [--chart docs/pictures/ladder.svg]

First a line of the machine, then a line a case: `value` in the case's `unit`, `accept` and `goal` in the same, whether it
`holds`, and the times of ours and the peer by CUDA events: medians in turns after warm-up. Before each call the
GPU clears its L2 cache, as in triton.testing.do_bench, so that the host has 0.1 ms until it is waited for; before that a
backward's forward runs, as in a step of training. `gpu_alone_ms` and `from_idle_ms` say what a call takes without the host's
share and with all of it. The package is the one of this checkout with
LONGSTRIDE_LIBRARY, or else what is installed. The cases run in a process of their own: one that dies or hangs is told by a line,
and the others go on in another.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
from collections import deque
from queue import Empty, Queue

ROOT = pathlib.Path(__file__).resolve().parents[1]
if "LONGSTRIDE_LIBRARY" in os.environ:
    sys.path.insert(0, str(ROOT / "python"))

if importlib.util.find_spec("longstride") is None:
    sys.exit("cuda_round.py: no package longstride: install it, or set LONGSTRIDE_LIBRARY to build/src/liblongstride_kernels.so")

from second_round import report  # noqa: E402

START_SECONDS = 60  # until a process has its torch and its GPU
HANG, SPARE_SECONDS = 5, 60  # a case may take so many times what it is said to take, and so much more


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="cases whose name it finds")
    parser.add_argument("--budget", type=float, default=3600, metavar="SECONDS", help="begin no case that would end later")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE.jsonl", help="the lines, beside standard output")
    parser.add_argument("--list", action="store_true", help="name the cases, with what is asked for, and stop")
    parser.add_argument("--repeats", type=int, default=11, metavar="N", help="rounds of each case (11)")
    parser.add_argument("--commit", default="", metavar="NAME", help="of the library, where git does not tell it")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--scale", type=int, default=1, metavar="S", help="lengths are divided by it, 1024 at most; for dry runs")
    parser.add_argument("--summary", type=pathlib.Path, metavar="FILE.jsonl", help="the table of such lines; runs nothing")
    parser.add_argument("--chart", type=pathlib.Path, metavar="FILE.svg", help="with --summary: draw ours, accept and goal")
    parser.add_argument("--page", type=pathlib.Path, metavar="FILE.md", help="with --summary: write the table between its marks")
    parser.add_argument("--worker", type=int, metavar="FIRST", help=argparse.SUPPRESS)
    return parser


def checked(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    if given.repeats < 1 or not 1 <= given.scale <= 1024:
        parser.error(f"--repeats must be >= 1 and --scale in 1 to 1024, got {given.repeats} and {given.scale}")
    if (given.chart or given.page) and not given.summary:
        parser.error("--chart and --page belong to --summary FILE.jsonl")


class Worker:
    """A process that runs the cases from the first on; its lines come through a queue, None when it has ended."""

    def __init__(self, first: int, budget: float):
        arguments = [sys.executable, "-u", __file__, *sys.argv[1:], f"--worker={first}", f"--budget={max(0.0, budget):.3f}"]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self.lines: Queue = Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def next(self, seconds: float) -> dict | None:
        """The next line; None at the end. Raises Empty when none comes in so many seconds."""
        end = time.monotonic() + seconds
        line = ""
        while not line:
            try:
                line = self.lines.get(timeout=1)
            except Empty:
                if self.process.poll() is not None:  # a compiler that it left behind may hold the pipe open
                    return None
                if time.monotonic() > end:
                    raise
            else:
                if line is None:
                    return None
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):  # what a library printed
            print(line, end="", file=sys.stderr)
            return {}
        return found

    def stop(self, hung: bool) -> str:
        """Behind the last line; what became of it, in words."""
        try:
            if hung:
                self.process.kill()
            self.process.wait(30)
        except subprocess.TimeoutExpired:  # a driver that does not let go of it
            self.process.kill()
        return "hung, and was stopped" if hung else f"ended its process ({self.process.returncode})"


def run_all(cases: list, given: argparse.Namespace) -> None:
    kept = given.out.open("w", encoding="utf-8") if given.out else None

    def keep(line: dict) -> None:
        for file in filter(None, (sys.stdout, kept)):
            print(json.dumps(line), file=file, flush=True)

    began, waiting, seen_machine = time.monotonic(), deque(range(len(cases))), False
    while waiting:
        worker = Worker(waiting[0], given.budget - (time.monotonic() - began))
        limit, running, advanced, hung = START_SECONDS * HANG, None, False, False
        try:
            while True:
                line = worker.next(limit)
                if line is None:
                    break
                if "began" in line:
                    running = line["began"]
                    limit = SPARE_SECONDS + HANG * cases[running].seconds
                elif "case" in line:
                    waiting.popleft()
                    running, advanced = None, True
                    keep(line)
                elif "machine" in line and not seen_machine:
                    seen_machine = True
                    keep(line)
        except Empty:
            hung = True
        words = worker.stop(hung)
        if worker.process.returncode == 0:
            break  # all are through, or the budget is
        if waiting and (running is not None or not advanced):  # else it died of what came before: the next goes on
            keep(report.failed(cases[waiting.popleft()], words))
    left = [cases[i].name for i in waiting]
    if left:
        keep({"left_out": left, "why": f"--budget {given.budget:g}"})


def settle(device: str) -> None:
    """Between cases. An error that stays on the GPU ends this process here; the next one goes on behind the case."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def work(cases: list, given: argparse.Namespace) -> None:
    """In a worker: the machine, then the cases from the first on, as long as the budget allows."""
    from second_round.bench import Bench
    from second_round.measures import reason

    end = time.monotonic() + given.budget
    print(json.dumps({"machine": report.machine(given)}))
    for number in range(given.worker, len(cases)):
        case = cases[number]
        if time.monotonic() + case.seconds / given.scale > end:
            return
        print(json.dumps({"began": number}))
        began = time.monotonic()
        try:
            measured = case.measure(Bench(given.device, given.scale, given.repeats))
            line = report.line(case, measured)
        except Exception as error:
            line = report.failed(case, reason(error))
        line["seconds"] = round(time.monotonic() - began, 1)
        print(json.dumps(line))
        settle(given.device)


def main() -> int:
    parser = options()
    given = parser.parse_args()
    checked(parser, given)
    if given.summary:
        return report.summary(given)
    from second_round.cases import all_cases

    cases = [case for case in all_cases() if given.only.search(case.name)]
    if given.list:
        for case in cases:
            print(report.words(case))
    elif given.worker is not None:
        work(cases, given)
    else:
        run_all(cases, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
