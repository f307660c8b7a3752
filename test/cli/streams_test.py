"""Standard output that is full, closed or a dead end is noticed by every command, and nothing is printed elsewhere."""

import json
import os
import subprocess

import program
from program import TINY, ProgramTest

LOST = "not all of the output could be written to standard output"


class Streams(ProgramTest):
    def setUp(self):
        super().setUp()
        self.train("run", "--eval-windows", "0", "--stop-after", "1", steps=2)

    def commands(self):
        run = self.folder / "run"
        bench = ["bench", "--len", "64", "--heads", "2", "--no-memory", "--repeats", "1", "--no-official"]
        pattern = json.dumps({"dilated": {"segment_lengths": [8], "dilation_rates": [1]}})
        train = ["train", self.text, *TINY, "--steps", "1", "--eval-windows", "0", "--quiet", "--out"]
        return [["--help"], ["--version"], ["train", "--help"], ["show"], ["show", "--json"], [*bench], [*bench, "--json"],
                ["compare", pattern, "--len", "64"], ["compare", pattern, "--len", "64", "--json"], ["doctor", "--types"],
                ["doctor", "--types", "--json"], ["doctor", "--json", "--threads", "1"],
                ["eval", run, "--contexts", "64", "--scored", "32", "--quiet"],
                ["eval", run, "--contexts", "64", "--scored", "32", "--json", "--quiet"],
                ["generate", run, "--length", "8", "--quiet"], ["generate", run, "--length", "8", "--raw", "--quiet"],
                ["generate", run, "--length", "8", "--json"],
                [*train, self.folder / "one"], [*train, self.folder / "two", "--json"]]

    def lost(self, words, done):
        message = done.stderr.decode()
        self.assertEqual(done.returncode, 1, (words, message))
        self.assertIn(f"longstride: {LOST}", message)
        self.assertEqual(message.count(LOST), 1)

    def test_a_full_disk(self):
        for words in self.commands():
            with self.subTest(words=words), open("/dev/full", "w") as full:
                self.lost(words, subprocess.run([program.PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, timeout=1200))
        self.assertTrue((self.folder / "one/latest/model.safetensors").exists(), "the work is saved")

    def test_a_closed_one(self):
        # What is opened next gets descriptor 1: it must not get the output too.
        picture = self.folder / "p.svg"
        for words in [*self.commands()[:-2], ["show", "--picture", picture],
                      ["train", self.text, *TINY, "--steps", "1", "--out", self.folder / "three", "--log", self.folder / "log"]]:
            with self.subTest(words=words):
                self.lost(words, subprocess.run([program.PROGRAM, *words], stderr=subprocess.PIPE, timeout=1200,
                                                preexec_fn=lambda: os.close(1)))
        self.assertTrue(picture.read_text().endswith("</svg>\n"))
        for line in (self.folder / "log").read_text().splitlines():
            json.loads(line)
        self.json("train", "--resume", self.folder / "three", "--steps", "2")

    def test_all_three_closed(self):
        out = self.folder / "quiet"
        done = subprocess.run([program.PROGRAM, "train", self.text, *TINY, "--steps", "1", "--quiet", "--out", out], timeout=1200,
                              preexec_fn=lambda: os.closerange(0, 3))
        self.assertEqual(done.returncode, 1)
        self.assertEqual(self.json("train", "--resume", out, "--steps", "2")["steps"], 2)

    def test_generate_stops_when_nobody_can_read(self):
        # More bytes than anyone would wait for: it ends at the first that cannot be printed.
        words = ["generate", self.folder / "run", "--length", "900000", "--quiet", "--raw"]
        with open("/dev/full", "w") as full:
            self.lost(words, subprocess.run([program.PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, timeout=1200))


if __name__ == "__main__":
    program.main()
