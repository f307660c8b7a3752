"""A training step in bfloat16 at a context of 65,536 (4 layers, dim 256) takes at most 4 GiB of memory; in float32
test/nn/long_context shows it."""

import program
from program import ProgramTest, write_text


class Memory(ProgramTest):
    def test_a_step_at_65536(self):
        text = self.folder / "long"
        write_text(text, files=40, lines=150)
        result = self.json("train", text, "--out", self.folder / "run", "--context", "65536", "--layers", "4", "--dim", "256",
                           "--steps", "1", "--eval-windows", "0", "--checkpoint-activations", "--precision", "bf16",
                           "--threads", "2")
        print(f"{result['peak_memory_bytes'] / 2**30:.2f} GiB, {result['seconds']:.1f} s")
        self.assertLess(result["peak_memory_bytes"], 4 << 30)


if __name__ == "__main__":
    program.main()
