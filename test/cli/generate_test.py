"""longstride generate: the same seed gives the same bytes, what is printed is text, and bad input is refused."""

import program
from program import ProgramTest


class Generate(ProgramTest):
    def setUp(self):
        super().setUp()
        self.run_folder = self.folder / "run"
        self.train("run", "--eval-windows", "0", "--lr", "1e-2", steps=8)

    def bytes(self, *words, **more):
        return self.call("generate", self.run_folder, "--quiet", *words, **more).stdout

    def test_a_seed_repeats(self):
        one = self.bytes("--prompt", "def ", "--seed", "3", "--length", "60", "--raw")
        self.assertEqual(len(one), 60)
        self.assertEqual(one, self.bytes("--prompt", "def ", "--seed", "3", "--length", "60", "--raw"))
        self.assertNotEqual(one, self.bytes("--prompt", "def ", "--seed", "4", "--length", "60", "--raw"))
        self.assertNotEqual(one, self.bytes("--prompt", "xyz ", "--seed", "3", "--length", "60", "--raw"))

    def test_greedy_needs_no_seed(self):
        greedy = self.bytes("--prompt", "def ", "--temperature", "0", "--length", "30", "--raw")
        self.assertEqual(greedy, self.bytes("--prompt", "def ", "--temperature", "0", "--length", "30", "--raw"))
        self.assertEqual(greedy, self.bytes("--prompt", "def ", "--top-k", "1", "--length", "30", "--raw"))

    def test_prompts_from_file_and_stdin(self):
        (self.folder / "prompt").write_bytes(b"def \xff\x00\n")
        from_file = self.bytes("--prompt-file", self.folder / "prompt", "--seed", "1", "--length", "20", "--raw")
        from_stdin = self.bytes("--prompt-file", "-", "--seed", "1", "--length", "20", "--raw", input=b"def \xff\x00\n")
        self.assertEqual(from_file, from_stdin)
        self.assertEqual(len(self.bytes("--seed", "1", "--length", "20", "--raw")), 20)

    def test_random_blocks_take_prompts_of_every_length(self):
        pattern = '{"causal": true, "blocks": [{"pattern": "random", "block_size": 16, "density": 0.2}]}'
        self.call("train", self.text, "--out", self.folder / "random", "--dim", "16", "--layers", "1", "--heads", "2",
                  "--pattern", pattern, "--context", "160", "--steps", "1", "--eval-windows", "0")
        for length in (1, 16, 17, 40, 100, 150):
            with self.subTest(length=length):
                result = self.json("generate", self.folder / "random", "--prompt", "x" * length, "--length", "3")
                self.assertEqual((result["bytes"], result["prompt_bytes"]), (3, length))

    def test_what_is_printed_is_text(self):
        # After eight steps the model is near to drawing bytes at random, so control and stray bytes are among them.
        raw = self.bytes("--seed", "9", "--length", "600", "--temperature", "3", "--raw")
        self.assertTrue(any(b < 9 or b > 0x7f for b in raw))
        text = self.bytes("--seed", "9", "--length", "600", "--temperature", "3").decode("utf-8")
        self.assertEqual([c for c in text.replace("\r\n", "\n") if c not in "\n\t" and (ord(c) < 32 or 127 <= ord(c) < 160)], [])
        self.assertIn("\ufffd", text)

    def test_echo_and_json(self):
        self.assertTrue(self.bytes("--prompt", "def \u00e9", "--echo", "--length", "5", "--seed", "1").decode().startswith("def \u00e9"))
        result = self.json("generate", self.run_folder, "--prompt", "ab", "--length", "7", "--seed", "5")
        self.assertEqual((result["bytes"], result["prompt_bytes"], result["seed"]), (7, 2, 5))

    def test_it_can_stop_at_the_end_of_a_file(self):
        result = self.json("generate", self.run_folder, "--length", "5000", "--temperature", "20", "--seed", "1", "--to-file-end")
        self.assertLess(result["bytes"], 5000)  # bytes are drawn nearly evenly: one in 256 ends the file

    def test_bad_input(self):
        for words, says in [
            (["--length", "0"], "--length: must be a whole number from 1"),
            (["--temperature", "-1"], "--temperature: must be a number from 0"),
            (["--top-p", "0"], "--top-p: must be a positive number of at most 1"),
            (["--top-k", "-2"], "--top-k: must be a whole number of at least 0"),
            (["--prompt-file", self.folder / "absent"], "no such file"),
            (["--prompt", "a", "--prompt-file", "-"], "--prompt"),
            (["--lenght", "3"], "did you mean '--length'"),
            (["--precision", "fp8"], "--precision"),
            (["--length", "2000000"], "max_len"),
        ]:
            with self.subTest(words=words):
                self.refused("generate", self.run_folder, *words, says=says)
        self.refused("generate", self.folder / "absent", says="no such folder")
        self.refused("generate", self.text, says="is not a checkpoint")
        self.refused("generate", says="CHECKPOINT")


if __name__ == "__main__":
    program.main()
