"""tools/usable_torch.py before packages that look like torch: which are taken, and what is said of the others."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "tools" / "usable_torch.py"


def ask(version, *, library=True, oldest="2.10"):
    """Exit code and output where the interpreter sees a torch of this version, or none."""
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder)
        if version is not None:
            (home / "torch" / "lib").mkdir(parents=True)
            (home / "torch" / "__init__.py").write_text("")
            if library:
                (home / "torch" / "lib" / "libtorch_cpu.so").write_text("")
            info = home / f"torch-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        # -S: without the site packages, where a real torch may lie.
        done = subprocess.run([sys.executable, "-S", str(SCRIPT), oldest], capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": folder})
        return done.returncode, (done.stdout + done.stderr).replace(folder, "HOME").strip()


class UsableTorch(unittest.TestCase):
    def test_from_the_oldest_on(self):
        for version in ("2.10.0", "2.10.0+cu128", "2.13.0+cpu", "2.14.0a0+git12", "3.0.0"):
            self.assertEqual(ask(version), (0, f"{version} HOME"))

    def test_older_ones_are_left_alone(self):
        for version in ("2.9.1", "1.13.1+cpu"):
            self.assertEqual(ask(version), (1, f"torch {version} is older than 2.10"))

    def test_without_its_library_or_at_all(self):
        self.assertEqual(ask("2.13.0", library=False), (1, "torch at HOME/torch has no libtorch_cpu.so"))
        self.assertEqual(ask(None), (1, "no torch"))


if __name__ == "__main__":
    unittest.main()
