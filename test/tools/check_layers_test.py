"""tools/check_layers.py on small trees: one that is right, and copies of it with one thing wrong each."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECKER = pathlib.Path(__file__).resolve().parents[2] / "tools" / "check_layers.py"

RIGHT = {
    "include/longstride/error.h": "#include <stdexcept>\n",
    "include/longstride/pattern.h": '#include <vector>\n#include "longstride/error.h"\n',
    "include/longstride/plan.h": "#include <span>\n",
    "include/longstride/attention.h": '#include <ATen/core/Tensor.h>\n#include "longstride/pattern.h"\n',
    "src/core/refuse.h": '#include "longstride/error.h"\n',
    "src/core/CMakeLists.txt": "longstride_room(core DEPS fmt::fmt)\n",
    "src/pattern/groups.cc": '#include "longstride/pattern.h"\n#include "core/refuse.h"\n',
    "src/plan/compile.cc": '#include "longstride/plan.h"\n#include "longstride/pattern.h"\n#include "plan/cost.h"\n',
    "src/plan/cost.h": "#include <cstdint>\n",
    "src/plan/CMakeLists.txt": "longstride_room(plan DEPS longstride_core longstride_pattern)\n",
    "src/engine/contract.h": '#include "longstride/plan.h"\n#include "core/refuse.h"\n',
    "src/engine/cpu/forward.cc": '#include "engine/contract.h"\n#include "pack.h"\n',
    "src/engine/cpu/pack.h": "#include <cstdint>\n",
    "src/engine/reference/reference.h": '#include "engine/contract.h"\n',
    "src/engine/cuda/tile.h": "#include <cuda_runtime.h>\n",
    "src/engine/cuda/tile/rows.h": '#include "engine/cuda/tile.h"\n',
    "src/engine/cuda/sm80/forward.cu": '#include "engine/cuda/tile/rows.h"\n',
    "src/engine/cuda/sm90/forward.h": '#include "engine/cuda/tile.h"\n',
    "src/op/call.cc": '#include <torch/csrc/stable/library.h>\n#include "engine/cpu/pack.h"\n#include "plan/cost.h"\n',
    "src/op/call.h": '#include "longstride/attention.h"\n',
    "src/op/array.h": "#include <torch/headeronly/core/ScalarType.h>\n",
    "src/op/tensor.h": '#include <torch/csrc/stable/tensor.h>\n#include "op/array.h"\n',
    "src/op/results.h": '#include "op/tensor.h"\n',
    "src/op/autograd/meta.cc": '#include <torch/library.h>\n#include "op/array.h"\n#include "op/call.h"\n',
    "src/op/autograd/names.h": "#include <string>\n",
    "src/op/CMakeLists.txt": "longstride_room(op DEPS longstride_core longstride_plan longstride_engine_cpu)\n",
    "src/nn/module.cc": '#include "op/call.h"\n',
    "src/nn/module.h": "#include <torch/torch.h>\n",
    "include/longstride/train.h": '#include "longstride/pattern.h"\n',
    "src/picture/svg.cc": '#include "core/refuse.h"\n',
    "src/picture/svg.h": "#include <string>\n",
    "src/train/trainer.cc": '#include "longstride/train.h"\n#include "nn/module.h"\n#include "picture/svg.h"\n',
    "src/train/trainer.h": "#include <string>\n",
    "src/peer/dense.cc": "#include <ATen/ATen.h>\n",
    "src/peer/dense.h": "#include <ATen/core/Tensor.h>\n",
    "src/cli/rooms.cc": '#include "peer/dense.h"\n#include "picture/svg.h"\n#include "train/trainer.h"\n',
    "src/cli/main.cc": '#include "longstride/attention.h"\n#include "longstride/plan.h"\n#include "words.h"\n',
    "src/cli/words.h": "#include <string>\n",
    "src/cli/doctor.cc": '#include "commit.h"\n',
    "src/cli/CMakeLists.txt": "add_custom_target(commit COMMAND x\n  BYPRODUCTS ${CMAKE_CURRENT_BINARY_DIR}/commit.h)\n",
    "bench/pack_bench.cc": '#include "engine/cpu/pack.h"\n#include "longstride/plan.h"\n#include "rounds.h"\n',
    "bench/rounds.h": "#include <cstdint>\n",
    "bench/CMakeLists.txt": "target_link_libraries(pack_bench PRIVATE longstride_engine_cpu longstride_plan)\n",
    "python/binding.cc": '#include "longstride/attention.h"\n#include <torch/library.h>\n',
    "python/CMakeLists.txt": "target_link_libraries(_longstride PRIVATE longstride::longstride)\n",
    "python/longstride/compat/theirs/utils/ring_v2.py": "",
    "oracle/attention.h": '#include <vector>\n#include "oracle/philox.h"\n',
    "oracle/philox.h": "#include <cstdint>\n",
}


def check(changes):
    """Exit code and output of the checker on the right tree with some files replaced or added."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {**RIGHT, **changes}.items():
            path = pathlib.Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        done = subprocess.run([sys.executable, str(CHECKER), folder], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


class CheckLayers(unittest.TestCase):
    def test_right_tree(self):
        code, output = check({})
        self.assertEqual(code, 0, output)
        self.assertIn("keep to their rooms", output)

    def test_empty_tree_is_no_success(self):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([sys.executable, str(CHECKER), folder], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)

    def test_long_file_is_a_note(self):
        code, output = check({"test/plan/long_test.cc": "// line\n" * 401})
        self.assertEqual(code, 0, output)
        self.assertIn("note: test/plan/long_test.cc: 401 lines", output)

    def test_lengths_that_may_be(self):
        body = "  run();\n" * 97
        code, output = check({
            "src/plan/whole.cc": "// line\n" * 400,
            "src/plan/apart.cc": f"namespace plan {{\nvoid first() {{\n{body}}}\n\nvoid second(int a,\n            int b) {{\n{body}}}\n}}\n",
            "src/engine/cuda/sm90/forward.cuh": f"__device__ void consume(int n) {{\n{body}{body}}}\n",
        })  # fmt: skip
        self.assertEqual(code, 0, output)


# name: (file, its text, words that the complaint must hold)
WRONG = {
    "long_file": ("src/plan/cost.h", "// line\n" * 401, "has 401 lines"),
    "long_function": ("src/plan/cost.h", "inline void a(int x,\n              int y) {\n" + "  b();\n" * 98 + "}\n", "a has 101 lines"),
    "long_method": ("src/plan/cost.h", "class A {\n  void a() {\n" + "    b();\n" * 99 + "  }\n};\n", "a has 101 lines"),
    "long_constructor": ("src/plan/cost.h", "A::A(int x)\n    : x(x) {\n" + "  b();\n" * 98 + "}\n", "A has 101 lines"),
    "long_kernel": ("src/engine/cuda/sm90/gradient.cuh", "void consume(int x) {\n" + "  b();\n" * 99 + "}\n", "consume has 101"),
    "pattern_knows_plan": ("src/pattern/groups.cc", '#include "plan/cost.h"\n', "of room 'plan'"),
    "pattern_knows_plan_public": ("src/pattern/groups.cc", '#include "longstride/plan.h"\n', "of room 'plan'"),
    "engine_knows_pattern": ("src/engine/contract.h", '#include "longstride/pattern.h"\n', "of room 'pattern'"),
    "engine_knows_planner": ("src/engine/cpu/forward.cc", '#include "plan/cost.h"\n', "of room 'plan'"),
    "climbing_path": ("src/engine/cpu/forward.cc", '#include "../../plan/cost.h"\n', "of room 'plan'"),
    "cpu_knows_reference": ("src/engine/cpu/pack.h", '#include "engine/reference/reference.h"\n', "engines do not know"),
    "sm80_knows_sm90": ("src/engine/cuda/sm80/forward.cu", '#include "engine/cuda/sm90/forward.h"\n', "engines do not"),
    "shared_knows_sm90": ("src/engine/cuda/tile.h", '#include "engine/cuda/sm90/forward.h"\n', "engines do not"),
    "shared_deeper_knows_sm90": ("src/engine/cuda/tile/rows.h", '#include "engine/cuda/sm90/forward.h"\n', "engines do not"),
    "contract_knows_cpu": ("src/engine/contract.h", '#include "engine/cpu/pack.h"\n', "engines do not"),
    "core_knows_torch": ("src/core/refuse.h", "#include <ATen/ATen.h>\n", "knows no torch"),
    "plan_knows_torch_quoted": ("src/plan/cost.h", '#include "torch/torch.h"\n', "knows no torch"),
    "plan_knows_cuda": ("src/plan/cost.h", "#include <cuda_runtime.h>\n", "know CUDA"),
    "cpu_knows_cuda": ("src/engine/cpu/pack.h", "#include <cuda_fp16.h>\n", "know CUDA"),
    "op_knows_nn": ("src/op/call.h", '#include "nn/module.h"\n', "of room 'nn'"),
    "stable_knows_full_abi": ("src/op/array.h", "#include <ATen/core/Tensor.h>\n", "in LibTorch's stable ABI"),
    "stable_knows_autograd": ("src/op/array.h", '#include "op/autograd/names.h"\n', "in LibTorch's stable ABI"),
    "full_knows_stable_abi": ("src/op/autograd/names.h", "#include <torch/csrc/stable/ops.h>\n", "in LibTorch's full ABI"),
    "full_knows_stable_tensors": ("src/op/autograd/names.h", '#include "op/results.h"\n', "of LibTorch's stable ABI"),
    "generated_elsewhere": ("src/op/call.h", '#include "commit.h"\n', "neither beside it nor in src"),
    "no_such_file": ("src/op/call.h", '#include "op/cal.h"\n', "neither beside it nor in src"),
    "cli_knows_nn": ("src/cli/main.cc", '#include "nn/module.h"\n', "of room 'nn'"),
    "picture_knows_torch": ("src/picture/svg.cc", "#include <torch/torch.h>\n", "knows no torch"),
    "picture_knows_pattern": ("src/picture/svg.cc", '#include "longstride/pattern.h"\n', "of room 'pattern'"),
    "train_knows_cli": ("src/train/trainer.cc", '#include "cli/words.h"\n', "of room 'cli'"),
    "train_knows_op": ("src/train/trainer.cc", '#include "op/call.h"\n', "of room 'op'"),
    "peer_knows_core": ("src/peer/dense.cc", '#include "core/refuse.h"\n', "of room 'core'"),
    "peer_knows_us": ("src/peer/dense.cc", '#include "longstride/attention.h"\n', "of room 'op'"),
    "nn_knows_train": ("src/nn/module.cc", '#include "train/trainer.h"\n', "of room 'train'"),
    "cli_knows_op": ("src/cli/main.cc", '#include "op/call.h"\n', "of room 'op'"),
    "second_json_reader": ("src/op/call.h", "const auto json = nlohmann::json::parse(text);\n", "parses JSON"),
    "public_knows_private": ("include/longstride/plan.h", '#include "core/refuse.h"\n', "public header includes"),
    "public_arrow": ("include/longstride/plan.h", '#include "longstride/attention.h"\n', "of room 'op'"),
    "public_pattern_torch": ("include/longstride/pattern.h", "#include <torch/torch.h>\n", "knows no torch"),
    "public_third_party": ("include/longstride/attention.h", "#include <fmt/core.h>\n", "public headers, torch and std"),
    "public_no_room": ("include/longstride/odds.h", "#include <vector>\n", "belongs to no room"),
    "oracle_knows_include": ("oracle/philox.h", '#include "longstride/pattern.h"\n', "the oracle includes nothing"),
    "oracle_knows_src": ("oracle/philox.h", '#include "core/refuse.h"\n', "the oracle includes nothing"),
    "bench_knows_cli": ("bench/pack_bench.cc", '#include "cli/words.h"\n', "of room 'cli', which bench/ may not"),
    "bench_no_such_file": ("bench/rounds.h", '#include "engine/cpu/packs.h"\n', "neither beside it nor in src"),
    "bench_no_such_public": ("bench/rounds.h", '#include "longstride/plans.h"\n', "is not in include/"),
    "bench_brackets": ("bench/rounds.h", "#include <longstride/plan.h>\n", 'write "longstride/plan.h"'),
    "bench_links_to_cli": ("bench/CMakeLists.txt", "target_link_libraries(pack_bench PRIVATE\n  longstride_cli)\n",
                           "links to longstride_cli"),
    "python_knows_private": ("python/binding.cc", '#include "op/call.h"\n', "public headers only"),
    "python_links_to_a_room": ("python/CMakeLists.txt", "target_link_libraries(_longstride PRIVATE longstride_op)\n",
                               "links to longstride_op"),
    "unknown_room": ("src/odds/ends.cc", "", "there is no room 'odds'"),
    "link_upwards": ("src/plan/CMakeLists.txt", "longstride_room(plan DEPS\n  longstride_op)\n", "links to longstride_op"),
    "link_added_later": ("src/core/CMakeLists.txt", "target_link_libraries(longstride_core PUBLIC longstride_plan)\n",
                         "links to longstride_plan"),
    "banned_file": ("src/plan/plan_utils.cc", "", "its name says 'utils'"),
    "banned_python_file": ("python/longstride/ring_v2.py", "", "its name says 'v2'"),
    "banned_folder": ("src/plan/new/cost.cc", "", "its name says 'new'"),
}


def wrong_case(path, text, words):
    def test(self):
        code, output = check({path: text})
        self.assertEqual(code, 1, output)
        self.assertIn(path, output)
        self.assertIn(words, output)

    return test


for case, (path, text, words) in WRONG.items():
    setattr(CheckLayers, f"test_wrong_{case}", wrong_case(path, text, words))

if __name__ == "__main__":
    unittest.main()
