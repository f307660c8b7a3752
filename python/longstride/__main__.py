"""`python -m longstride doctor`: what stands here, and whether it computes what it should. Exit code 1 if it does not."""

import argparse
import sys

from . import __version__, doctor


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m longstride", description="Exact attention over very long sequences.")
    parser.add_argument("--version", action="version", version=f"longstride {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="what stands here, and a check of attention and its gradients in every dtype")
    parser.parse_args(arguments)
    report = doctor()
    print(report)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
