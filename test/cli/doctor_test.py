"""longstride doctor: JSON that a script can read, the engines that are there, and a self-check that ran."""

import os

import program
from program import ProgramTest


class Doctor(ProgramTest):
    def test_json(self):
        found = self.json("doctor", "--threads", "2")
        self.assertTrue(found["healthy"], found["faults"])
        self.assertEqual(found["machine"]["threads"], 2)
        self.assertEqual(found["machine"]["processors"], len(os.sched_getaffinity(0)))
        self.assertGreater(found["machine"]["memory_bytes"], 2**28)
        lines = [line.split(":", 1) for line in open("/proc/cpuinfo") if ":" in line]
        known = {key.strip(): value.strip() for key, value in reversed(lines)}
        if "cpu family" in known:
            self.assertIn(f"(family {known['cpu family']}, model {known['model']})", found["machine"]["processor"])
        engines = {engine["engine"]: engine for engine in found["engines"]}
        self.assertTrue(engines["cpu"]["yes"])
        self.assertTrue(engines["reference"]["yes"])
        self.assertTrue(all(engine["reason"] for engine in engines.values()))
        self.assertEqual([check["dtype"] for check in found["checks"]], ["float32", "bfloat16", "float16", "float64"])
        for check in found["checks"]:
            # An error of exactly nothing would mean that the formula was compared with itself.
            self.assertGreater(check["grad_error"], 0)
            self.assertLessEqual(max(check["out_error"], check["grad_error"]), check["allowed"])
        self.assertEqual({check["dtype"]: check["engine"] for check in found["checks"]},
                         {"float32": "cpu", "bfloat16": "cpu", "float16": "cpu", "float64": "reference"})
        for rate in found["brgemm"].values():
            self.assertEqual(rate["available"], rate["gflops"] > 0)
            self.assertTrue(rate["available"] or rate["reason"])

    def test_an_engine_by_its_name(self):
        checks = self.json("doctor", "--engine", "reference")["checks"]
        self.assertEqual([check["engine"] for check in checks], ["reference"] * 4)
        found = self.json("doctor", "--engine", "cpu")
        self.assertTrue(found["healthy"])
        self.assertEqual([check["engine"] for check in found["checks"]], ["cpu", "cpu", "cpu", ""])
        self.assertIn("float64", found["checks"][3]["refusal"])
        self.assertIn("refused: ", self.call("doctor", "--engine", "cpu").stdout.decode())

    def test_text(self):
        text = self.call("doctor").stdout.decode()
        for words in ("machine", "engines", "micro-GEMM", "self-check", "All is well."):
            self.assertIn(words, text)

    def test_types(self):
        types = self.json("doctor", "--types")["types"]
        self.assertEqual(sorted(types), ["block_sparse", "block_sparse_adaptive", "block_sparse_ring",
                                         "block_sparse_ring_distributed", "distributed", "improved", "ring", "standard"])
        for name, found in types.items():
            plain = {option["name"] for option in found["options"]}
            multihead = {option["name"] for option in found["multihead_options"]}
            # A scorer must be told its size where there are no projections that say it.
            self.assertLess(plain - {"head_dim"}, multihead, name)
            self.assertTrue(all(option["meaning"] for option in found["multihead_options"]), name)
            self.assertIn("causal", plain)
            self.assertEqual("block_size" in plain, name.startswith("block_sparse"), name)
            self.assertEqual("max_sparsity_ratio" in plain, name.startswith("block_sparse"), name)
        defaults = {option["name"]: option["default"] for option in types["standard"]["multihead_options"]}
        self.assertEqual(defaults["segment_lengths"], [2048, 4096, 8192])
        self.assertIsNone(defaults["softmax_scale"])
        text = self.call("doctor", "--types").stdout.decode()
        for words in ("auto: here and without options standard", "block_sparse_ring:", "dilation_rates", "ring_size"):
            self.assertIn(words, text)

    def test_bad_input(self):
        self.refused("doctor", "--jsno", says="did you mean '--json'")
        self.refused("doctor", "--threads", "-2", says="--threads")


if __name__ == "__main__":
    program.main()
