"""tools/format on a small repository: --check tells formatted files from others, and formatting mends them."""

import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Format(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)
        (self.root / "tools").mkdir()
        shutil.copy(ROOT / "tools" / "format", self.root / "tools" / "format")
        shutil.copy(ROOT / ".clang-format", self.root / ".clang-format")
        if (ROOT / ".venv").is_dir():
            (self.root / ".venv").symlink_to(ROOT / ".venv")
        subprocess.run(["git", "init", "-q", str(self.root)], check=True)

    def run_format(self, *arguments):
        done = subprocess.run([str(self.root / "tools" / "format"), *arguments], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def test_check_and_mend(self):
        (self.root / "right.cc").write_text("int f() { return 1; }\n")
        self.assertEqual(self.run_format("--check")[0], 0)
        (self.root / "wrong.h").write_text("int   g( ) {return 2;}\n")
        code, output = self.run_format("--check")
        self.assertEqual(code, 1)
        self.assertIn("wrong.h", output)
        self.assertNotIn("right.cc", output)
        self.assertEqual(self.run_format()[0], 0)
        self.assertEqual(self.run_format("--check")[0], 0)

    def test_cuda_files_are_read(self):
        for name in ("wrong.cu", "wrong.cuh"):
            (self.root / name).write_text("int   g( ) {return 2;}\n")
        code, output = self.run_format("--check")
        self.assertEqual(code, 1)
        self.assertIn("wrong.cu\n", output)
        self.assertIn("wrong.cuh", output)
        self.assertEqual(self.run_format()[0], 0)
        self.assertEqual(self.run_format("--check")[0], 0)

    def test_no_files_and_bad_option(self):
        self.assertEqual(self.run_format("--check")[0], 1)
        (self.root / "right.cc").write_text("int f();\n")
        self.assertEqual(self.run_format("--frobnicate")[0], 2)


if __name__ == "__main__":
    unittest.main()
