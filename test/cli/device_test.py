"""--device of train, eval and generate on a machine without a GPU of that number: refused before anything is read or
written; not saved with a run."""

import json

import program
from program import TINY, ProgramTest

SAYS = [("cuda:99", "--device must be "), ("cuda:99", "got cuda:99"),
        ("cdua", "unknown --device 'cdua'; one of [cpu, cuda, cuda:1]; did you mean 'cuda'?"),
        ("cuda:first", "--device must have a GPU's number behind cuda:, got 'cuda:first'; the first is cuda:0"),
        ("cuda:-1", "--device must have a GPU's number"), ("", "unknown --device ''")]


class Device(ProgramTest):
    def test_refused_before_anything_is_read(self):
        # What is read does not exist, and would be refused otherwise.
        absent = self.folder / "absent"
        for command in ["train", absent, "--out", self.folder / "run", *TINY, "--steps", "1"], ["eval", absent], ["generate", absent]:
            for device, says in SAYS:
                with self.subTest(command=command[0], device=device):
                    self.refused(*command, "--device", device, says=says)
        self.assertFalse((self.folder / "run").exists())

    def test_the_cpu_by_name(self):
        self.train("run", "--device", "cpu", "--eval-windows", "0", "--stop-after", "2")
        state = json.loads((self.folder / "run/latest/state.json").read_text())
        self.assertNotIn("device", state["settings"])
        self.assertNotIn("device", state["position"])
        before = {file.name for file in (self.folder / "run/latest").iterdir()}
        self.refused("train", "--resume", self.folder / "run", "--device", "cuda:99", says="--device must be ")
        self.assertEqual({file.name for file in (self.folder / "run/latest").iterdir()}, before)
        self.assertEqual(self.json("train", "--resume", self.folder / "run", "--device", "cpu")["steps"], 4)
        self.call("generate", self.folder / "run", "--device", "cpu", "--length", "2", "--quiet")


if __name__ == "__main__":
    program.main()
