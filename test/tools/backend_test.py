"""Which torch the Python package's build backend compiles with, over a scikit-build-core that hands its settings back."""

import os
import pathlib
import sys
import tempfile
import types
import unittest
from unittest import mock

BACKEND = pathlib.Path(__file__).resolve().parents[2] / "python" / "backend"
NAMES = ("build_sdist", "get_requires_for_build_sdist", "prepare_metadata_for_build_editable",
         "prepare_metadata_for_build_wheel")


def load():
    """A backend over hooks that hand back their settings."""
    build = types.ModuleType("scikit_build_core.build")
    for name in NAMES:
        setattr(build, name, None)
    for kind in ("wheel", "editable"):
        setattr(build, f"build_{kind}", lambda folder, settings, metadata: settings)
        setattr(build, f"get_requires_for_build_{kind}", lambda settings: ["ninja"])
    package = types.ModuleType("scikit_build_core")
    package.build = build
    sys.modules.pop("longstride_backend", None)
    with mock.patch.dict(sys.modules, {"scikit_build_core": package, "scikit_build_core.build": build}), \
            mock.patch.object(sys, "path", [str(BACKEND), *sys.path]):
        import longstride_backend
        return longstride_backend


class Backend(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = pathlib.Path(folder.name)
        self.backend = load()

    def sees(self, words):
        """A script in place of usable_torch.py, which finds a torch if the interpreter's -E is among these."""
        script = self.home / "usable.py"
        script.write_text(f"import sys\nif sys.flags.ignore_environment not in {words!r}: sys.exit(1)\n"
                          f"print('2.13.0', {str(self.home / 'site packages')!r}, sep=' ')\n")
        return mock.patch.object(self.backend, "USABLE_TORCH", script)

    def test_the_torch_of_the_environment_is_taken_and_none_is_fetched(self):
        with mock.patch.dict(os.environ, {"LONGSTRIDE_TORCH": ""}):
            for words in ((1,), (0,), (0, 1)):
                with self.sees(words):
                    self.assertEqual(self.backend.get_requires_for_build_wheel(), ["ninja"])
                    for build in (self.backend.build_wheel, self.backend.build_editable):
                        self.assertEqual(build("out", {"a": "b"}), {"a": "b", "cmake.define.Torch_DIR":
                                         str(self.home / "site packages" / "torch" / "share" / "cmake" / "Torch")})

    def test_torch_is_required_where_there_is_none(self):
        with mock.patch.dict(os.environ, {"LONGSTRIDE_TORCH": ""}), self.sees(()):
            for requires in (self.backend.get_requires_for_build_wheel, self.backend.get_requires_for_build_editable):
                self.assertEqual(requires(), ["ninja", "torch>=2.10"])
            with self.assertRaisesRegex(SystemExit, "no torch from 2.10 on was found for the build"):
                self.backend.build_wheel("out")

    def test_a_torch_that_is_named_comes_first(self):
        (self.home / "lib").mkdir()
        with mock.patch.dict(os.environ, {"LONGSTRIDE_TORCH": str(self.home)}), self.sees((0, 1)):
            with self.assertRaisesRegex(SystemExit, "LONGSTRIDE_TORCH must be a torch folder"):
                self.backend.get_requires_for_build_wheel()
            (self.home / "lib" / "libtorch_cpu.so").write_text("")
            self.assertEqual(self.backend.get_requires_for_build_wheel(), ["ninja"])
            self.assertEqual(self.backend.build_wheel("out"),
                             {"cmake.define.Torch_DIR": str(self.home.resolve() / "share" / "cmake" / "Torch")})

    def test_what_cmake_is_told_is_not_overruled(self):
        given = {"cmake.define.Torch_DIR": "elsewhere"}
        with self.sees((0, 1)):
            self.assertEqual(self.backend.build_wheel("out", given), given)


if __name__ == "__main__":
    unittest.main()
