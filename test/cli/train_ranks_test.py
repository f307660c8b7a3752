"""longstride train on several ranks is the run of one process within rounding, resumed on any number of them."""

import json
import subprocess

import program
from ranks import MODEL, ONE_THREAD, SIX_HEADS, RanksTest


class SameRun(RanksTest):
    def test_two_ranks_share_the_samples(self):
        options = ["--batch", "4", "--accumulate", "2", "--eval-windows", "3"]
        one = self.one_process("one", *options, "--log", self.folder / "one.log")
        two = self.on_ranks(2, "two", *options, "--log", self.folder / "two.log")
        self.assertEqual((two["status"], two["steps"]), ("finished", 4))
        for what in "loss", "held_out_bits_per_byte_before", "held_out_bits_per_byte":
            self.assert_close(one[what], two[what], what)
        self.assert_same_steps("one.log", "two.log")
        self.assert_same_run("one", "two")
        start = self.log("two.log")[0]
        self.assertEqual((start["ranks"], start["context_parallel"]), (2, 1))

    def test_ranks_with_more_samples_than_others(self):
        # Forwards of 2 samples of 128 bytes, and of 3 of 64.
        options = ["--batch", "2", "--context-from", "64", "--step-bytes", "192", "--eval-windows", "1"]
        self.one_process("one", *options, "--log", self.folder / "one.log")
        self.on_ranks(2, "two", *options, "--log", self.folder / "two.log")
        self.assertEqual({line["context"] for line in self.steps_of("two.log")}, {64, 128})
        self.assert_same_steps("one.log", "two.log")
        self.assert_same_run("one", "two")

    def context_parallel(self, ranks, context, *options, shared=2, model=MODEL, key_bias=range(0)):
        words, model = ["--eval-windows", "3", "--batch", "2", *options], [*model, "--context", context]
        one = self.one_process("one", *words, "--log", self.folder / "one.log", model=model)
        many = self.on_ranks(ranks, "many", *words, "--context-parallel", shared, "--log", self.folder / "many.log", model=model)
        for what in "loss", "held_out_bits_per_byte_before", "held_out_bits_per_byte":
            self.assert_close(one[what], many[what], what)
        self.assert_same_steps("one.log", "many.log")
        self.assert_same_run("one", "many", key_bias)
        start = self.log("many.log")[0]
        self.assertEqual((start["ranks"], start["context_parallel"]), (ranks, shared))

    def test_two_ranks_share_a_sequence(self):
        # A context that does not divide evenly, and one that is shorter at first; recomputed layers send their rows again.
        self.context_parallel(2, 101, "--qk-norm", "--context-from", "27", "--checkpoint-activations")

    def test_three_ranks_divide_the_heads_with_alibi(self):
        self.context_parallel(3, 101, "--positions", "alibi", "--context-from", "27", shared=3, key_bias=range(24, 48))

    def test_two_pairs_of_ranks_divide_heads_of_three_queries_with_alibi(self):
        self.context_parallel(4, 96, "--positions", "alibi", "--kv-heads", "2", model=SIX_HEADS, key_bias=range(24, 32))

    def test_ranks_that_share_a_sequence_drop_the_pairs_of_one(self):
        # By the draws of a rank of its own, as there is one in each of two pairs.
        words = ["--batch", "2", "--kv-heads", "2", "--eval-windows", "2", "--checkpoint-activations"]
        dropping, model = [*words, "--attention-dropout", "0.3"], [*SIX_HEADS, "--context", "101"]
        for ranks, out, options in [(2, "two", dropping), (4, "pairs", [*dropping, "--context-parallel", 2]), (2, "none", words)]:
            self.on_ranks(ranks, out, *options, "--log", self.folder / f"{out}.log", model=model)
        self.assert_same_steps("two.log", "pairs.log")
        self.assert_same_run("two", "pairs")
        self.assertGreater(abs(self.steps_of("none.log")[0]["loss"] - self.steps_of("two.log")[0]["loss"]), 1e-4)

    def test_two_pairs_of_ranks(self):
        self.context_parallel(4, 128, "--qk-norm", "--accumulate", "2")

    def test_a_run_goes_on_on_another_number_of_ranks(self):
        options = ["--batch", "2", "--eval-windows", "0"]
        self.one_process("once", *options, steps=6)
        self.one_process("up", *options, "--stop-after", "3", steps=6)
        self.assertEqual(self.resume_on(2, "up")["steps"], 6)
        self.assert_same_run("once", "up")
        self.on_ranks(2, "down", *options, "--stop-after", "3", steps=6)
        self.assertEqual(self.json("train", "--resume", self.folder / "down")["steps"], 6)
        self.assert_same_run("once", "down")
        self.one_process("shared", *options, "--stop-after", "3", steps=6)
        self.assertEqual(self.resume_on(2, "shared", "--context-parallel", "2")["steps"], 6)
        self.assert_same_run("once", "shared")

    def test_the_same_ranks_go_on_bit_for_bit(self):
        options = ["--batch", "2", "--dropout", "0.1", "--attention-dropout", "0.1", "--eval-windows", "0"]
        for ranks, shared in (2, []), (3, ["--context-parallel", "3"]):
            once, parts = f"once{ranks}", f"parts{ranks}"
            self.on_ranks(ranks, once, *options, *shared, steps=6)
            self.on_ranks(ranks, parts, *options, *shared, "--stop-after", "3", steps=6)
            self.resume_on(ranks, parts, *shared)
            for name in "model.safetensors", "training.safetensors":
                self.assertEqual(*((self.folder / out / "latest" / name).read_bytes() for out in (once, parts)))

    def test_each_rank_draws_dropout_of_its_own(self):
        # All samples are alike, so that ranks which drew alike would have the loss of one process with one sample.
        self.text = self.folder / "alike.txt"
        self.text.write_bytes(bytes(65 + i % 32 for i in range(4095)))
        options = ["--dropout", "0.5", "--held-out-share", "0", "--eval-windows", "0"]
        one = self.one_process("one", *options, steps=1)
        two = self.on_ranks(2, "two", *options, "--batch", "2", steps=1)
        self.assertGreater(abs(one["loss"] - two["loss"]), 1e-3)

    def test_torchrun(self):
        options = ["--batch", "2", "--eval-windows", "0"]
        self.one_process("one", *options)
        line = self.torchrun(self.text, *ONE_THREAD, *options, "--out", self.folder / "two", "--steps", "4", "--json")
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=1200)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        self.assertEqual(json.loads(done.stdout)["steps"], 4)
        self.assert_same_run("one", "two")


if __name__ == "__main__":
    program.main()
