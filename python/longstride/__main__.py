"""`python -m longstride`: doctor, bench, show and compare. Exit codes: 0 done, 1 failed (doctor: something is wrong), 2 bad input."""

import argparse
import functools
import sys

import torch

from . import __version__, describe, doctor
from ._compare import add_compare_options, compare_command
from ._options import add_pattern_options, output_path, pattern_of, run_command, whole
from ._show import telling_length
from .bench import __main__ as bench


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine", default="", metavar="NAME", help="check this one alone: cpu, reference, cuda sm90 or cuda sm80"
    )


def doctor_command(given: argparse.Namespace) -> int:
    report = doctor(given.engine)
    print(report)
    return 0 if report.passed else 1


def add_show_options(parser: argparse.ArgumentParser) -> None:
    add_pattern_options(parser)
    group = parser.add_argument_group("picture")
    group.add_argument("--len", type=whole(0), dest="length", metavar="N", help="tokens (as many as tell the pattern)")
    group.add_argument("--heads", type=whole(1), default=1, metavar="N", help="KV heads, side by side (1)")
    group.add_argument("--out", type=output_path("--out", ".svg"), metavar="FILE.svg", help="write the picture")
    group.add_argument("--text", action="store_true", help="print it in characters; so it is without --out and --plan")
    group.add_argument("--plan", action="store_true", help="print the plans of a call: engine, tiles, runs, of float32 heads of 64")


def show_command(given: argparse.Namespace) -> int:
    pattern = pattern_of(given, [8, 16, 32], [1, 2, 4])
    if given.plan:
        n = telling_length(pattern.json()) if given.length is None else given.length
        q = torch.empty(1, 1, 1, 64).expand(1, n, given.heads, 64)
        print(describe(q, q, q, pattern))
        if not given.text and given.out is None:
            return 0
    picture = pattern.show(given.length, given.heads)
    if given.text or given.out is None:
        print(picture)
    if given.out is not None:
        picture.save(given.out)
        print(f"wrote {given.out}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m longstride", description="Exact attention over very long sequences.")
    parser.add_argument("--version", action="version", version=f"longstride {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, add_options, command, words in (
        ("doctor", add_doctor_options, doctor_command, "what stands here, and a check of attention and its gradients in every dtype"),
        ("bench", bench.add_options, bench.bench_command, "time attention beside SDPA, FlexAttention and LongNet's algorithm"),
        ("show", add_show_options, show_command, "who sees whom under a pattern, as SVG or in characters"),
        ("compare", add_compare_options, compare_command, "how much patterns show, and in how many layers they reach all"),
    ):
        one = commands.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".", allow_abbrev=False)
        if add_options:
            add_options(one)
        one.set_defaults(run=functools.partial(run_command, one, command=command))
    given = parser.parse_args(arguments)
    return given.run(given)


if __name__ == "__main__":
    sys.exit(main())
