"""Runs the program as a process for the tests beside this file, makes small texts for it, reads its pictures."""

import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

PROGRAM = None
PYTHON = None  # one that has torch, for torchrun

# A model that takes milliseconds a step, with two groups, dropout of both kinds and no dim that is a tile.
TINY = ["--dim", "24", "--layers", "2", "--heads", "2", "--segments", "32,128", "--rates", "1,4", "--context", "128",
        "--threads", "2"]


def main():
    """unittest.main, with --program and --python taken off the command line."""
    global PROGRAM, PYTHON
    at = sys.argv.index("--program")
    PROGRAM = pathlib.Path(sys.argv[at + 1]).resolve()
    PYTHON = pathlib.Path(sys.argv[sys.argv.index("--python") + 1])
    del sys.argv[at:at + 4]
    unittest.main()


def write_text(folder, files=12, lines=60, seed=5):
    """Files of made-up code, each with words of its own that come again and again."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(files):
        words = ["".join(chance.choice("abcdeklmnorstu") for _ in range(chance.randint(3, 9))) for _ in range(12)]
        body = [f"    {chance.choice(words)} = {chance.choice(words)}({chance.choice(words)})" for _ in range(lines)]
        (folder / f"part_{i:02}.py").write_text(f"def {words[0]}():\n" + "\n".join(body) + "\n")


def read_png(path):
    """Width, height and rows of (r, g, b) of a PNG of 8-bit RGB, undoing its filters."""
    data = pathlib.Path(path).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", data[:8]
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + size:at + 12 + size])[0], kind
        if kind == b"IHDR":
            width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            assert (depth, color, interlaced) == (8, 2, 0)
        if kind == b"IDAT":
            packed += body
        at += 12 + size
    raw, rows, above = zlib.decompress(packed), [], bytes(3 * width)
    for y in range(height):
        mode, line = raw[y * (3 * width + 1)], bytearray(raw[y * (3 * width + 1) + 1:(y + 1) * (3 * width + 1)])
        for x in range(3 * width):
            left, up = line[x - 3] if x >= 3 else 0, above[x]
            corner = above[x - 3] if x >= 3 else 0
            guess = left + up - corner
            nearest = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]
            line[x] = (line[x] + (0, left, up, (left + up) // 2, nearest)[mode]) % 256
        rows.append([tuple(line[3 * x:3 * x + 3]) for x in range(width)])
        above = bytes(line)
    return width, height, rows


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
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=1200, **more)
        self.assertEqual(done.returncode, code, f"{' '.join(words)}\n{done.stdout!r}\n{done.stderr.decode()}")
        return done

    def json(self, *words, **more):
        return json.loads(self.call(*words, "--json", **more).stdout)

    def refused(self, *words, says, **more):
        """Runs the program on bad input: exit code 2, one message that holds `says` and is returned, nothing on stdout."""
        done = self.call(*words, code=2, **more)
        message = done.stderr.decode()
        self.assertIn(says, message)
        self.assertTrue(message.startswith("longstride: "), message)
        self.assertLessEqual(message.count("\n"), 2, message)
        self.assertEqual(done.stdout, b"")
        return message

    def train(self, out, *words, steps=4, text=None, **more):
        return self.json("train", text or self.text, "--out", self.folder / out, *TINY, "--steps", steps, *words, **more)
