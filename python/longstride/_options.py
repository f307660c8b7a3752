"""Options of the commands that name a pattern and lengths: those of the C++ program, by the same names."""

import argparse
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from ._pattern import Pattern
from ._picture import check_svg_path
from ._refusal import refuse

# Options that describe a pattern, as attributes of the parsed arguments.
OF_GROUPS = ("segments", "rates", "offset", "padding")
OF_WINDOW = ("window", "sinks")


def whole(least: int) -> Callable[[str], int]:
    """Reads a whole number >= least; 32k is 32768, 1m is 1048576."""

    def read(text: str) -> int:
        digits, unit = text, 1
        if text[-1:].lower() in ("k", "m"):
            digits, unit = text[:-1], {"k": 1024, "m": 1024**2}[text[-1].lower()]
        if not (digits.isascii() and digits.isdigit()) or int(digits) * unit < least:
            what = f"must be a whole number >= {least}, 32k being 32768"
            raise argparse.ArgumentTypeError(f"{what}, got {text!r}")
        return int(digits) * unit

    return read


def wholes(least: int) -> Callable[[str], list[int]]:
    """Reads 1k,2k,4k."""
    return lambda text: [whole(least)(part) for part in text.split(",")]


def output_path(option: str, ending: str) -> Callable[[str], pathlib.Path]:
    """Reads the name of a file that is to be written: refused before the work."""

    def read(text: str) -> pathlib.Path:
        path = pathlib.Path(text)
        try:
            if ending == ".svg":
                return check_svg_path(path, option)
            if not path.name or not path.parent.is_dir():
                refuse(option, "must be a file in a folder that is there", text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(f"{option} ")) from None
        return path

    return read


def add_pattern_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pattern")
    group.add_argument("--segments", type=wholes(1), metavar="N,...", help="segment length of each dilated group, in tokens")
    group.add_argument("--rates", type=wholes(1), metavar="N,...", help="dilation rate of each group")
    group.add_argument("--offset", choices=("modulo", "block", "group"), help="which residue a head samples (modulo)")
    group.add_argument("--padding", choices=("masked", "zero_keys"), help="zero_keys: as torchscale's models (masked)")
    group.add_argument(
        "--window", type=wholes(0), metavar="LEFT[,RIGHT]", help="a sliding window in place of groups: tokens before, after"
    )
    group.add_argument("--sinks", type=whole(0), metavar="N", help="with --window: first tokens that all see")
    group.add_argument("--pattern", metavar="JSON", help="a whole pattern as JSON, or a file of it, in place of the others")
    group.add_argument("--causal", action="store_true", help="a query sees no later key")


def given_names(given: argparse.Namespace, names: Sequence[str]) -> list[str]:
    return [f"--{name}" for name in names if getattr(given, name) is not None]


def text_of_pattern(given: str, option: str = "--pattern") -> str:
    """The JSON itself, or what the file of that name holds."""
    if given.lstrip().startswith("{"):
        return given
    if not os.path.isfile(given):
        refuse(option, "must be JSON, which begins with {, or a file of it", repr(given), "no such file is there")
    try:
        return pathlib.Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        refuse(option, "must be a file that can be read as UTF-8", given, str(error))


def pattern_of(given: argparse.Namespace, segments: Sequence[int], rates: Sequence[int]) -> Pattern:
    """The pattern that the options name. Raises the library's ValueError.

    Args:
        segments, rates: where no option says anything.
    """

    def alone(option: str, others: list[str], remedy: str) -> None:
        if others:
            refuse(option, "must stand without other options of the pattern", f"{' and '.join(others)} too", remedy)

    if given.pattern is not None:
        causal = ["--causal"] if given.causal else []
        alone("--pattern", given_names(given, OF_GROUPS + OF_WINDOW) + causal, "write them into its JSON")
        return Pattern.from_json(text_of_pattern(given.pattern))
    if given.window is not None:
        alone("--window", given_names(given, OF_GROUPS), "give a union as JSON, by --pattern")
        if len(given.window) > 2:
            refuse("--window", "must be LEFT or LEFT,RIGHT", f"{len(given.window)} numbers")
        # One number: as many after as before, as in the C++ program.
        return Pattern.sliding_window(
            given.window[0], given.window[-1], sink_tokens=given.sinks or 0, causal=given.causal
        )
    if given.sinks is not None:
        refuse("--sinks", "must come with --window", "no --window", "give both, or a pattern as JSON")
    if (given.segments is None) != (given.rates is None):
        refuse("--segments and --rates", "must be given both or neither", given_names(given, OF_GROUPS)[0] + " alone")
    return Pattern.dilated(
        given.segments or segments,
        given.rates or rates,
        causal=given.causal,
        head_offset=given.offset or "modulo",
        padding=given.padding or "masked",
    )


def run_command(parser: argparse.ArgumentParser, given: argparse.Namespace, command: Callable[[argparse.Namespace], Any]) -> int:
    """Runs a command; bad input is exit code 2, as argparse has it, and a file that cannot be written is 1."""
    try:
        return command(given) or 0
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
