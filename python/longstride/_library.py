"""Finds the kernels' library and loads it: what importing longstride does first.

The library is in LibTorch's stable ABI, so one build serves every torch from 2.10 on; it holds no Python symbol.
"""

import os
import pathlib
import sys

import torch

NAME = "liblongstride_kernels.so"
OLDEST_TORCH = (2, 10)
ADVICE = "pip install --force-reinstall longstride"


def wanted_torch() -> str:
    return ">= " + ".".join(map(str, OLDEST_TORCH))


def version_of(text: str) -> tuple[int, ...]:
    """(2, 13) of "2.13.0+cpu"; of a version with no two numbers in front, what numbers there are."""
    numbers = []
    for part in text.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def fail(what: str, remedy: str, cause: BaseException | None = None) -> None:
    """The one ImportError of this package: what is wrong, the versions found and wanted, and what helps."""
    raise ImportError(
        f"longstride {what}; torch found: {torch.__version__}, wanted: {wanted_torch()}; {remedy}"
    ) from cause


def is_registered() -> bool:
    """Whether the operators are there: of this package, or of a liblongstride.so that was loaded before it."""
    return hasattr(torch.ops.longstride, "attention") and hasattr(torch.ops.longstride, "attention_backward")


def path() -> pathlib.Path:
    """The library that is to be loaded: LONGSTRIDE_LIBRARY (for developers), or the one beside the package."""
    given = os.environ.get("LONGSTRIDE_LIBRARY")
    if given:
        return pathlib.Path(given)
    # An editable install has two folders: that of the sources, and that of what was built from them.
    places = [pathlib.Path(folder, NAME) for folder in sys.modules[__package__].__path__]
    return next((place for place in places if place.is_file()), places[0])


def real_cause(error: BaseException) -> str:
    """load_library() hides what the loader said behind an error that names the file alone."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def load() -> None:
    """Registers the operators, unless they are registered. Raises ImportError."""
    if is_registered():
        return
    if version_of(torch.__version__) < OLDEST_TORCH:
        fail("does not know this torch", f"pip install 'torch{wanted_torch().replace(' ', '')}'")
    library = path()
    if not library.is_file():
        remedy = ADVICE
        if "LONGSTRIDE_LIBRARY" in os.environ:
            remedy = f"LONGSTRIDE_LIBRARY must name a built {NAME}; unset it to load the one of the package"
        fail(f"finds no library at {library}", remedy)
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        fail(f"cannot load {library}: {real_cause(error)}", ADVICE, error)
    if not is_registered():
        fail(f"has loaded {library}, which has no operators of longstride", ADVICE)
