"""Every option that takes a number, of every command, has a range, and says so of what is no number or beyond it."""

import json
import re

import program
from program import ProgramTest

NO_NUMBERS = ["nan", "inf", "0x10", "1e", "", "1 2"]  # in any option
HUGE = ["99999999999999999999", "-99999999999999999999", "1e308", "1e999"]

# What a command needs so that the number is what is wrong; {text}, {run} are filled in.
COMMANDS = {
    "train": ["{text}", "--out", "{out}"],
    "generate": ["{run}"],
    "eval": ["{run}"],
    "bench": ["--no-memory"],
    "compare": ["{pattern}"],
    "show": [],
    "doctor": [],
}


class Numbers(ProgramTest):
    def options(self, command):
        """Names of the options that take numbers, as the help tells them."""
        found = re.findall(r"^  (?:-\w,)?(--[a-z0-9-]+)[^ ]* (INT|UINT|FLOAT)", self.call(command, "--help").stdout.decode(), re.M)
        return dict(found)

    def words(self, command):
        places = {"text": str(self.text), "out": str(self.folder / "out"), "run": str(self.folder / "absent"),
                  "pattern": json.dumps({"dilated": {"segment_lengths": [8], "dilation_rates": [1]}})}
        return [places.get(word.strip("{}"), word) if word.startswith("{") else word for word in COMMANDS[command]]

    def test_every_number_of_every_command(self):
        """Each option meets one of the wrong values, and all of them come up again and again."""
        counted = {}
        for command in COMMANDS:
            options = self.options(command)
            self.assertIn("--len" if command == "show" else "--threads", options)
            for option, kind in options.items():
                wrong = NO_NUMBERS + HUGE[1:]  # 1e20 is a base of angles that --rope-base takes
                wrong += [] if kind == "FLOAT" else ["1.5", "1e3", HUGE[0]] + ["-1"] * (kind == "UINT")
                budget = ["--steps", "2"] if command == "train" and option not in ("--steps", "--minutes") else []
                value = min(wrong, key=lambda value: counted.get(value, 0))
                with self.subTest(command=command, option=option, value=value):
                    message = self.refused(command, *self.words(command), *budget, option, value, says="must be ")
                    # A range that the model states is refused under the model's name of the field.
                    self.assertIn(option[2:].replace("-", "_"), message.replace("-", "_"))
                    self.assertRegex(message, "must be .*got .*")
                    self.assertLess(len(message), 400)
                    counted[value] = counted.get(value, 0) + 1
        self.assertTrue(all(counted[value] > 2 for value in NO_NUMBERS + HUGE), counted)
        self.assertGreater(sum(counted.values()), 50)
        self.assertFalse((self.folder / "out").exists())

    def test_ranges(self):
        for words, says in [
            (["doctor", "--threads", "0"], "--threads: must be a whole number from 1 to 4096, got '0'; take a larger one"),
            (["doctor", "--threads", "4097"], "got '4097'; take a smaller one"),
            (["show", "--len", "9999999999m"], "--len: must be a whole number from 0 to 1099511627776, got '9999999999m'"),
            (["show", "--segments", "8796093022208m,64", "--rates", "1,1"], "--segments: must be a whole number of at least 1"),
            (["bench", "--lens", "64,1e3"], "32k means 32768"),
            (["bench", "--len", "1m", "--heads", "65536", "--dim", "65536"], "--len x --heads x --dim must be at most"),
            (["train", self.text, "--steps", "1000000000001"], "--steps: must be a whole number from 1 to 1000000000000"),
            (["train", self.text, "--steps", "2", "--stop-after", "9223372036854775807"], "--stop-after"),
            (["train", self.text, "--steps", "2", "--seed", "-1"], "--seed: must be a whole number from 0 to 18446744073709551615"),
            (["train", self.text, "--steps", "2", "--seed", "18446744073709551616"], "take a smaller one"),
            (["train", self.text, "--steps", "2", "--lr", "1e308"], "--lr must be a positive number of at most 1000, got 1e+308"),
            (["train", self.text, "--steps", "2", "--rope-base", "1e308"], "--rope-base must be a positive number of at most"),
            (["train", self.text, "--steps", "2", "--batch", "1048576", "--accumulate", "2"], "--batch x --accumulate must be"),
            (["train", self.text, "--minutes", "1e308"], "--minutes: must be a positive number of at most 10000000"),
            (["generate", self.text, "--temperature", "1e308"], "--temperature: must be a number from 0 to 1000000"),
        ]:
            with self.subTest(words=words):
                self.refused(*words, says=says)

    def test_what_is_in_range_is_taken_as_it_stands(self):
        shown = self.json("show", "--len", "+064", "--segments", "010,1K", "--rates", "1,2", "--heads", "2")
        self.assertEqual(shown["lengths"]["len_k"], 64)
        self.assertEqual([group["segment"] for group in shown["pattern"]["groups"]], [10, 1024])
        shown = self.json("show", "--len", "64", "--segments", str(2**63 - 1), "--rates", "1")
        self.assertEqual(shown["pattern"]["groups"][0]["segment"], 2**63 - 1)
        self.train("run", "--seed", str(2**64 - 1), "--eval-windows", "0", steps=1)
        state = json.loads((self.folder / "run/latest/state.json").read_text())
        self.assertEqual(state["settings"]["seed"], 2**64 - 1)

    def test_configs_have_the_same_ranges(self):
        config = self.folder / "c.json"
        for key, value in (("steps", 10**13), ("batch", 2**21), ("lr", 1e308), ("context", 2**41), ("dim", 2**25)):
            config.write_text(json.dumps({"steps": 2, key: value}))
            self.refused("train", self.text, "--config", config, says=f"--{key} must be")


if __name__ == "__main__":
    program.main()
