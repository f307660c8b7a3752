"""longstride compare: reach, coverage and bits of patterns, from files and from runs; and train --pattern, which makes them."""

import json
import xml.etree.ElementTree

import program
from program import ProgramTest, read_png

# Pairs, layers and shares of these on 128 tokens in blocks of 8 can be told by hand.
LOCAL = {"causal": True, "blocks": [{"pattern": "local_window", "block_size": 8, "window": 16}]}
DENSE = {"causal": True, "dilated": {"segment_lengths": [4096], "dilation_rates": [1]}}
APART = {"causal": True, "dilated": {"segment_lengths": [32], "dilation_rates": [1]}}
MODEL = ["--dim", "24", "--layers", "2", "--heads", "2", "--context", "128", "--threads", "1", "--batch", "4", "--lr", "1e-2"]


class Compare(ProgramTest):
    def setUp(self):
        super().setUp()
        self.files = {}
        for name, pattern in (("local", LOCAL), ("dense", DENSE), ("apart", APART)):
            self.files[name] = self.folder / f"{name}.json"
            self.files[name].write_text(json.dumps(pattern))

    def make_run(self, name, pattern, *words, steps=12):
        self.json("train", self.text, "--out", self.folder / name, *MODEL, "--steps", steps, "--pattern", pattern, *words)
        return self.folder / name

    def test_reach_of_files_and_of_json(self):
        result = self.json("compare", self.files["local"], self.files["dense"], self.files["apart"], json.dumps(LOCAL), "--len",
                           "128", "--heads", "2")
        local, dense, apart, again = result["patterns"]
        self.assertEqual([local["name"], dense["name"], apart["name"]], ["local", "dense", "apart"])
        self.assertEqual(local["pattern"], LOCAL)
        # 16 blocks of 8: one block is passed on a layer; pairs of 16 blocks on the diagonal and 15 whole ones below.
        self.assertEqual((local["layers"], local["reaches_all"], len(local["reached"])), (15, True, 15))
        pairs = 128 * 129 / 2
        self.assertAlmostEqual(local["density"], (16 * 36 + 15 * 64) / pairs)
        self.assertEqual((dense["layers"], dense["density"]), (1, 1))
        self.assertEqual((apart["layers"], apart["reaches_all"]), (None, False))
        self.assertAlmostEqual(apart["reached"][-1], 4 * 32 * 33 / 2 / pairs)
        self.assertEqual({**again, "name": "local"}, local)
        for key in "coverage", "bits_per_byte":
            self.assertNotIn(key, local)

    def test_runs_are_covered_and_scored(self):
        dense = self.make_run("runs/dense", self.files["dense"])
        local = self.make_run("runs/local", self.files["local"])
        pictures = [self.folder / "picture.svg", self.folder / "picture.png"]
        words = [dense, local, self.files["apart"], "--dense", dense, "--windows", "3", "--coverage-windows", "2", "--heaviest",
                 "0.05"]
        result = self.json("compare", *words, "--picture", pictures[0])
        self.assertEqual((result["len"], result["kv_heads"], result["windows"], result["scored_bytes"]), (128, 2, 3, 64))
        ours = {entry["name"]: entry for entry in result["patterns"]}
        self.assertEqual(list(ours), ["dense", "local", "apart"])
        self.assertAlmostEqual(ours["dense"]["coverage"]["mass"], 1, places=5)
        self.assertEqual(ours["dense"]["coverage"]["heaviest"], 1)
        for name in "local", "apart":
            layers = ours[name]["coverage"]["layers"]
            self.assertEqual(len(layers), 2)
            for field in "mass", "heaviest":
                self.assertTrue(all(0 < layer[field]["value"] < 1 for layer in layers), layers)
                self.assertAlmostEqual(ours[name]["coverage"][field], sum(layer[field]["value"] for layer in layers) / 2)
        # A model of 12 steps weighs its keys almost evenly: what is kept is near what a query of the pattern sees.
        seen = sum(min(q + 1, q % 8 + 1 + 8) / (q + 1) for q in range(128)) / 128
        self.assertAlmostEqual(ours["local"]["coverage"]["layers"][0]["mass"]["value"], seen, delta=0.15)
        # The same as `eval` says of each run.
        for name, run in (("dense", dense), ("local", local)):
            by_eval = self.json("eval", run, "--contexts", "128", "--scored", "64", "--windows", "3")["contexts"][0]
            self.assertAlmostEqual(ours[name]["bits_per_byte"]["value"], by_eval["bits_per_byte"], places=6)
        more = ours["local"]["bits_per_byte"]["value"] - ours["dense"]["bits_per_byte"]["value"]
        self.assertAlmostEqual(ours["local"]["more_than_first"]["value"], more)
        self.assertEqual(ours["dense"]["more_than_first"]["value"], 0)
        self.assertNotIn("bits_per_byte", ours["apart"])
        self.assertEqual(ours["local"]["steps"], 12)

        text = self.call("compare", *words, "--picture", pictures[1]).stdout.decode()
        for word in ("layers to reach all", "heaviest 5 % kept", "bits/byte", "never: ", "longstride"):
            self.assertIn(word, text)
        root = xml.etree.ElementTree.parse(pictures[0]).getroot()
        words = "".join(root.itertext())
        for word in ("dense", "local", "apart", "pairs seen", "attention kept", "bits/byte over dense", "not trained", "never"):
            self.assertIn(word, words)
        width, _, rows = read_png(pictures[1])
        self.assertEqual(width, 2 * int(float(root.get("width"))))
        for dot in [e for e in root if e.tag.endswith("circle")]:
            pixel = rows[round(2 * float(dot.get("cy")))][round(2 * float(dot.get("cx")))]
            self.assertNotEqual(pixel, (255, 255, 255))

    def test_bad_input(self):
        files = self.files
        self.refused("compare", says="PATTERN is required")
        self.refused("compare", self.folder / "absent.json", says="PATTERN: no file")
        self.refused("compare", "{}", says="dilated")
        self.refused("compare", files["local"], "--len", "0", says="--len: must be a whole number from 1")
        self.refused("compare", files["local"], "--len", "64k", says="got 65536")
        self.refused("compare", files["local"], "--heaviest", "0", says="--heaviest: must be a positive number of at most 1")
        self.refused("compare", files["local"], "--windows", "0", says="--windows: must be a whole number from 1")
        self.refused("compare", files["local"], "--picture", "a.gif", says="ends in .svg or .png")
        self.refused("compare", files["local"], "--heavies", "0.1", says="did you mean '--heaviest'")
        local = self.make_run("local", files["local"], steps=1)
        self.refused("compare", files["local"], "--dense", local, says="--dense must be a run that sees everything")
        self.refused("compare", local, "--heads", "3", says="the runs have 2 KV heads, got 3")
        self.refused("compare", local, "--scored", "129", says="--scored must be in [1, 128]")
        self.refused("compare", local, "--len", "16k", says="no held-out file has 16385 bytes")
        # How far a pattern reaches is not even asked when there is nothing to score: it would refuse this length itself.
        self.refused("compare", local, "--len", "64k", says="no held-out file has 65537 bytes")
        self.refused("compare", files["local"], "--dense", local, "--len", "64k", says="no held-out file has 65537 bytes")
        self.refused("compare", json.dumps({**DENSE, "note": "x" * 300}), says="note")  # longer than a file's name may be
        both_ways = json.dumps({**LOCAL, "causal": False})
        self.refused("compare", local, both_ways, says='must have "causal": true')
        first = sorted(self.text.iterdir())[0]
        first.write_text(first.read_text() + "x = 1\n")
        self.refused("compare", local, says="it has changed since")


class TrainWithAPattern(ProgramTest):
    def test_the_run_has_the_pattern_and_goes_on(self):
        pattern = {"causal": True, "dilated": {"segment_lengths": [32], "dilation_rates": [2], "head_offset": "block"},
                   "blocks": [{"pattern": "random", "block_size": 16, "density": 0.6, "seed": 3}]}
        words = [*MODEL, "--pattern", json.dumps(pattern)]
        self.json("train", self.text, "--out", self.folder / "once", *words, "--steps", "6")
        run = self.folder / "parts"
        self.json("train", self.text, "--out", run, *words, "--steps", "6", "--stop-after", "3")
        config = json.loads((run / "latest/config.json").read_text())["config"]
        self.assertEqual((config["segment_lengths"], config["dilation_rates"], config["head_offset"]), ([32], [2], "block"))
        self.assertEqual(config["blocks"], pattern["blocks"])
        self.assertEqual(json.loads((run / "latest/state.json").read_text())["settings"]["pattern"], pattern)
        self.assertEqual(self.json("train", "--resume", run)["status"], "finished")
        for name in "model.safetensors", "training.safetensors":
            self.assertEqual((run / "latest" / name).read_bytes(), (self.folder / "once/latest" / name).read_bytes())
        self.assertTrue(self.call("generate", run, "--prompt", "def a_prompt_of_some_length(self):\n    " * 2, "--length", "9",
                                  "--quiet").stdout)

    def test_a_pattern_takes_the_place_of_groups(self):
        self.json("train", self.text, "--out", self.folder / "run", "--preset", "demo", "--dim", "16", "--layers", "1", "--heads",
                  "2", "--context", "64", "--steps", "1", "--pattern", json.dumps(LOCAL))
        config = json.loads((self.folder / "run/latest/config.json").read_text())["config"]
        self.assertEqual((config["segment_lengths"], len(config["blocks"])), ([], 1))
        said = {"segment_lengths": [8, 16], "dilation_rates": [1, 2], "offsets": [0, 0, 1, 0], "mixing": "head_partition",
                "average": True, "padding": "zero_keys"}
        self.json("train", self.text, "--out", self.folder / "all", "--dim", "16", "--layers", "1", "--heads", "2", "--context",
                  "64", "--steps", "1", "--pattern", json.dumps({"causal": True, "dilated": said}))
        config = json.loads((self.folder / "all/latest/config.json").read_text())["config"]
        self.assertEqual({key: config[key] for key in said}, said)
        self.assertEqual(len(self.call("generate", self.folder / "all", "--prompt", "x" * 40, "--length", "9", "--raw").stdout), 9)

    def test_bad_patterns(self):
        for pattern, says in [
            ({**LOCAL, "causal": False}, 'must have "causal": true'),
            ({"causal": True, "blocks": [{"pattern": "axial", "block_size": 8}]}, "give grid_columns"),
            ({"causal": True, "blocks": [{"pattern": "lokal_window", "block_size": 8}]}, "did you mean 'local_window'"),
            ({"causal": True, "dilated": {"segment_lengths": [8], "dilation_rates": [1], "offsets": [0, 0]}}, "offsets"),
            ({"causal": True, "dilated": {"segment_lengths": [8], "dilation_rates": [1], "average": True}}, "average"),
            ({"causal": True}, "dilated"),
        ]:
            with self.subTest(pattern=pattern):
                self.refused("train", self.text, "--out", self.folder / "out", "--steps", "1", "--pattern", json.dumps(pattern),
                             says=says)
                self.assertFalse((self.folder / "out").exists())
        self.refused("train", self.text, "--steps", "1", "--pattern", json.dumps(LOCAL), "--rates", "1", says="--rates")
        self.refused("train", self.text, "--steps", "1", "--pattern", self.folder / "absent.json", says="no file")
        self.refused("train", self.text, "--steps", "1", "--pattern", self.folder, says="is a folder; name a file")
        config = self.folder / "config.json"
        config.write_text(json.dumps({"pattern": LOCAL, "segments": [8]}))
        self.refused("train", self.text, "--steps", "1", "--config", config, says="give one or the other")


if __name__ == "__main__":
    program.main()
