"""Runs the program as a process for the tests beside this file, and makes small texts for it."""

import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

PROGRAM = None

# A model that takes milliseconds a step, with two groups, dropout of both kinds and no dim that is a tile.
TINY = ["--dim", "24", "--layers", "2", "--heads", "2", "--segments", "32,128", "--rates", "1,4", "--context", "128",
        "--threads", "2"]


def main():
    """unittest.main, with --program taken off the command line."""
    global PROGRAM
    at = sys.argv.index("--program")
    PROGRAM = pathlib.Path(sys.argv[at + 1]).resolve()
    del sys.argv[at:at + 2]
    unittest.main()


def write_text(folder, files=12, lines=60, seed=5):
    """Files of made-up code, each with words of its own that come again and again."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(files):
        words = ["".join(chance.choice("abcdeklmnorstu") for _ in range(chance.randint(3, 9))) for _ in range(12)]
        body = [f"    {chance.choice(words)} = {chance.choice(words)}({chance.choice(words)})" for _ in range(lines)]
        (folder / f"part_{i:02}.py").write_text(f"def {words[0]}():\n" + "\n".join(body) + "\n")


class ProgramTest(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="longstride-cli-")
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.text = self.folder / "text"
        write_text(self.text)

    def call(self, *words, code=0, **more):
        """Runs the program, checks its exit code and returns the finished process."""
        words = [str(PROGRAM), *(str(w) for w in words)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300, **more)
        self.assertEqual(done.returncode, code, f"{' '.join(words)}\n{done.stdout!r}\n{done.stderr.decode()}")
        return done

    def json(self, *words, **more):
        return json.loads(self.call(*words, "--json", **more).stdout)

    def refused(self, *words, says, **more):
        """Runs the program on bad input: exit code 2, one message that holds `says`, nothing on stdout."""
        done = self.call(*words, code=2, **more)
        message = done.stderr.decode()
        self.assertIn(says, message)
        self.assertTrue(message.startswith("longstride: "), message)
        self.assertLessEqual(message.count("\n"), 2, message)
        self.assertEqual(done.stdout, b"")

    def train(self, out, *words, steps=4, text=None, **more):
        return self.json("train", text or self.text, "--out", self.folder / out, *TINY, "--steps", steps, *words, **more)
