"""scikit-build-core as the build backend, told where LibTorch's headers are.

Only headers and one library to link with are needed, of any torch from 2.10 on. So the torch of the environment that
longstride is installed into serves, although pip builds in another; torch is among the build's requirements only where
there is none. A frontend that builds in an environment of its own (uv, build) is told LONGSTRIDE_TORCH.
"""

import os
import pathlib
import subprocess
import sys

from scikit_build_core import build as backend
from scikit_build_core.build import (  # noqa: F401: hooks as they are
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

OLDEST_TORCH = "2.10"
USABLE_TORCH = pathlib.Path(__file__).resolve().parents[2] / "tools" / "usable_torch.py"
TORCH_DIR = "cmake.define.Torch_DIR"


def given_torch():
    """The folder that LONGSTRIDE_TORCH names, if it does."""
    given = os.environ.get("LONGSTRIDE_TORCH")
    if not given:
        return None
    folder = pathlib.Path(given).resolve()
    if not (folder / "lib" / "libtorch_cpu.so").is_file():
        sys.exit(
            f"LONGSTRIDE_TORCH must be a torch folder, which holds lib/libtorch_cpu.so, got {given}; "
            "print(*torch.__path__) says where it is"
        )
    return folder


def torch_folder():
    """The torch to compile with: LONGSTRIDE_TORCH, this interpreter's own, or one that was installed for the build."""
    given = given_torch()
    if given:
        return given
    # -E: without PYTHONPATH, by which pip hides the environment's packages from the build.
    for words in (["-E"], []):
        done = subprocess.run([sys.executable, *words, USABLE_TORCH, OLDEST_TORCH], capture_output=True, text=True)
        if done.returncode == 0:
            return pathlib.Path(done.stdout.strip().split(" ", 1)[1]) / "torch"
    return None


def required():
    return [] if torch_folder() else [f"torch>={OLDEST_TORCH}"]


def with_torch(config_settings):
    settings = dict(config_settings or {})
    if TORCH_DIR not in settings:
        folder = torch_folder()
        if folder is None:
            sys.exit(
                f"no torch from {OLDEST_TORCH} on was found for the build, whose headers are needed; pip install torch, "
                "or set LONGSTRIDE_TORCH to a torch folder"
            )
        settings[TORCH_DIR] = str(folder / "share" / "cmake" / "Torch")
    return settings


def get_requires_for_build_wheel(config_settings=None):
    return backend.get_requires_for_build_wheel(config_settings) + required()


def get_requires_for_build_editable(config_settings=None):
    return backend.get_requires_for_build_editable(config_settings) + required()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    return backend.build_wheel(wheel_directory, with_torch(config_settings), metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return backend.build_editable(wheel_directory, with_torch(config_settings), metadata_directory)
