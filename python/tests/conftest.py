"""Where the tests find the package and its library, and in which order they run."""

import os
import pathlib
import random
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
KERNELS = REPOSITORY / "build" / "src" / "liblongstride_kernels.so"

# Tests of a wheel run with LONGSTRIDE_INSTALLED=1, against what is installed.
if "LONGSTRIDE_INSTALLED" not in os.environ:
    sys.path.insert(0, str(REPOSITORY / "python"))
    os.environ.setdefault("LONGSTRIDE_LIBRARY", str(KERNELS))


def pytest_addoption(parser):
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the tests in a random order, the same for a seed")


def pytest_report_header(config):
    seed = config.getoption("--shuffle")
    return None if seed is None else f"order: --shuffle {seed}"


def pytest_collection_modifyitems(config, items):
    seed = config.getoption("--shuffle")
    if seed is not None:
        random.Random(seed).shuffle(items)
