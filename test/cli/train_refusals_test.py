"""longstride train refuses bad options, configs, paths, states and damaged checkpoints, before it writes anything."""

import json

import program
from program import TINY, ProgramTest


class Refusals(ProgramTest):
    def refuses(self, *words, says):
        out = self.folder / "out"
        self.refused("train", self.text, "--out", out, "--steps", "2", *words, says=says)
        self.assertFalse(out.exists())

    def test_bad_options(self):
        for words, says in [
            (["--context", "0"], "--context must be at least 1, got 0"),
            (["--context", "1000000"], "too few for a --context of 1000000"),
            (["--layers", "0"], "--layers must be at least 1"),
            (["--dim", "30", "--heads", "4"], "dim"),
            (["--segments", "64,128", "--rates", "1"], "same length"),
            (["--segments", "64", "--rates", "0"], "positive"),
            (["--dropout", "1.5"], "[0, 1)"),
            (["--lr", "0"], "--lr must be a positive number"),
            (["--warmup", "1"], "--warmup must be in [0, 1)"),
            (["--precision", "fp8"], "one of [fp32, bf16]"),
            (["--minutes", "3"], "give one of them"),
            (["--keep", "0"], "--keep: must be a whole number from 1"),
            (["--held-out-share", "1"], "--held-out-share must be in [0, 1)"),
            (["--ext", "xyz"], "no files ending in xyz"),
            (["--activation", "gleu"], "did you mean 'gelu'"),
            (["--lerning-rate", "1"], "unknown option '--lerning-rate'"),
            (["--layer", "1"], "did you mean '--layers'"),
            (["--dim", "many"], "--dim"),
            (["--preset", "dmeo"], "did you mean 'demo'"),
            (["--threads", "0"], "--threads"),
            (["--log", self.folder / "no/where.jsonl"], "--log"),
        ]:
            with self.subTest(words=words):
                self.refuses(*words, says=says)

    def test_bad_commands_and_paths(self):
        self.refused("trian", says="did you mean 'train'")
        self.refused("train", self.folder / "absent", "--steps", "2", says="no such file or folder")
        self.refused("train", "--steps", "2", says="no text given")
        self.refused("train", self.text, says="no budget given")
        self.refused("train", self.text, "--steps", "0", says="--steps: must be a whole number from 1")
        (self.folder / "file").write_text("x")
        self.refused("train", self.text, "--steps", "2", "--out", self.folder / "file", says="is a file")
        (self.folder / "bad.json").write_text('{"layer": 2}')
        self.refused("train", self.text, "--steps", "2", "--config", self.folder / "bad.json", says="did you mean 'layers'")
        (self.folder / "bad.json").write_text('{"layers": "two"}')
        self.refused("train", self.text, "--steps", "2", "--config", self.folder / "bad.json", says="setting 'layers'")

    def test_a_config_that_no_setting_would_hold(self):
        config = self.folder / "bad.json"
        deep = "[" * 70000 + "]" * 70000
        for text, says in [
            ('{"segments": [64, 16.9], "rates": [1, 2]}', "setting 'segments'[1] must be an integer, got 16.9"),
            ('{"segments": [64, true]}', "setting 'segments'[1] must be an integer, got true"),
            ('{"segments": [9223372036854775808]}', "'segments'[0] must be an integer below 2^63, got 9223372036854775808"),
            ('{"steps": 9223372036854775808}', "setting 'steps' must be an integer below 2^63, got 9223372036854775808"),
            ('{"steps": 99999999999999999999}', "steps must fit 64 bits, got 99999999999999999999"),
            ('{"steps": 16.9}', "setting 'steps' must be an integer, got 16.9"),
            ('{"steps": true}', "setting 'steps' must be an integer, got true"),
            ('{"seed": -1}', "setting 'seed' must be an integer from 0 to 2^64 - 1, got -1"),
            ('{"lr": 1e999}', "lr must be a number below 1.8e308, got 1e999"),
            ('{"dim": 32, "dim": 64}', "dim must be given once"),
            ('{"data": [1]}', "setting 'data' must be a list of words, got [1]"),
            ('{"dim": 32} {}', "must be JSON"),
            (f'{{"segments": {deep}}}', "must be nested at most 64 levels deep"),
            ("[]", "not a JSON object"),
        ]:
            with self.subTest(text=text[:60]):
                config.write_text(text)
                self.refuses("--config", config, says=says)
        config.write_bytes(b'{"precision": "\xff"}')
        self.refuses("--config", config, says="ill-formed UTF-8")
        self.refuses("--config", self.folder, says="must be a file of JSON, got a folder")
        self.refuses("--config", self.folder / "none.json", says="No such file")
        config.write_text(f'{{"blocks": {deep}}}')
        self.refuses("--pattern", config, says="must be nested at most 64 levels deep")
        self.refuses("--pattern", '{"causal": true, "causal": true}', says="causal must be given once")

    def test_a_damaged_state_is_refused(self):
        self.train("run", "--eval-windows", "0", steps=1)
        path = self.folder / "run/latest/state.json"
        whole = path.read_text()
        state = json.loads(whole)

        def with_change(place, key, value):
            changed = json.loads(whole)
            changed[place][key] = value
            return json.dumps(changed)

        for text, says in [
            (with_change("position", "fingerprint", "no number"), "fingerprint must be 16 hexadecimal digits, got no number"),
            (with_change("position", "fingerprint", "f" * 17), "fingerprint must be 16 hexadecimal digits"),
            (with_change("position", "fingerprint", 7), "fingerprint must be a string, got 7"),
            (with_change("position", "step", 1.5), "step must be an integer, got 1.5"),
            (with_change("position", "step", -1), "step must be an integer from 0"),
            (with_change("position", "seconds", "2"), "seconds must be a number"),
            (with_change("files", "config.json", 3), "describes config.json incompletely"),
            (with_change("files", "config.json", {"bytes": -1, "fnv1a": ""}), "describes config.json incompletely"),
            (with_change("files", "../x", state["files"]["config.json"]), "names a file ../x"),
            (with_change("settings", "seed", -1), "setting 'seed'"),
            (whole.replace('"format": 1', '"format": 1.5'), "format must be an integer"),
            (whole.replace('"format": 1', '"format": 2'), "format must be 1"),
            (whole.replace('"step":', '"step": 7, "step":'), "position.step must be given once"),
            ("[" * 70000, "nested at most 64 levels deep"),
            (whole[:-20], "must be JSON"),
        ]:
            with self.subTest(says=says):
                path.write_text(text)
                self.refused("train", "--resume", self.folder / "run", says=says)

    def test_a_run_is_not_overwritten(self):
        self.train("run", "--eval-windows", "0", steps=1)
        self.refused("train", self.text, *TINY, "--steps", "2", "--out", self.folder / "run", says="already holds a run")

    def test_bad_resumes(self):
        self.refused("train", "--resume", self.folder / "absent", says="no such folder")
        self.refused("train", "--resume", self.text, says="is not a checkpoint")
        self.train("run", "--stop-after", "1", "--eval-windows", "0")
        run = self.folder / "run"
        self.refused("train", "--resume", run, "--layers", "3", says="'layers' cannot be changed on --resume")
        first = next(iter(sorted(self.text.iterdir())))
        first.write_text(first.read_text() + "x")
        self.refused("train", "--resume", run, says="the text is not what the run was trained on")

    def test_corrupt_checkpoints(self):
        self.train("run", "--stop-after", "1", "--eval-windows", "0")
        run = self.folder / "run"
        for name in "model.safetensors", "training.safetensors", "config.json", "state.json":
            file = run / "latest" / name
            whole = file.read_bytes()
            flipped = bytearray(whole)
            flipped[len(whole) // 2] ^= 1
            for damaged in whole[:len(whole) // 2], bytes(flipped), b"":
                if name == "state.json" and len(damaged) == len(whole):
                    continue  # it holds the digests; a flipped bit in a setting of its own is beyond them
                file.write_bytes(damaged)
                with self.subTest(name=name, bytes=len(damaged)):
                    self.refused("train", "--resume", run, says="corrupt")
            file.unlink()
            with self.subTest(name=name, absent=True):
                self.refused("train", "--resume", run, says="" if name == "config.json" else name)
            file.write_bytes(whole)
        self.assertEqual(self.json("train", "--resume", run)["status"], "finished")


if __name__ == "__main__":
    program.main()
