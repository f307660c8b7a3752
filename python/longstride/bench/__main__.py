"""`python -m longstride.bench`, which is `python -m longstride bench`."""

import argparse
import json
import sys

import torch

from .._attention import dilated_attention
from .._engine import use_engine
from .._options import add_pattern_options, output_path, pattern_of, run_command, whole, wholes
from .._refusal import refuse
from .cases import DTYPES, PEERS, Case, run_case
from .memory import measure
from .report import chart, machine, machine_words, report_json, result_text, say

SEGMENTS, RATES = [1024, 2048, 4096, 8192, 16384], [1, 2, 4, 8, 16]
LENGTHS = [2048, 4096, 8192]


def peer_names(text: str) -> list[str]:
    names = [] if text == "none" else text.split(",")
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"must be some of {', '.join(PEERS)}, or none, got {name!r}")
    return names


def add_options(parser: argparse.ArgumentParser) -> None:
    add_pattern_options(parser)
    shape = parser.add_argument_group("shape")
    lengths = shape.add_mutually_exclusive_group()
    lengths.add_argument("--len", type=whole(1), dest="length", metavar="N", help="tokens")
    lengths.add_argument("--lens", type=wholes(1), metavar="N,...", help="one case each (2k,4k,8k)")
    for name, default, words in (("heads", 8, "query heads"), ("dim", 64, "numbers in a head"), ("batch", 1, "rows")):
        shape.add_argument(f"--{name}", type=whole(1), default=default, metavar="N", help=f"{words} ({default})")
    shape.add_argument("--kv-heads", type=whole(1), metavar="N", help="KV heads, which divide the heads (as --heads)")
    shape.add_argument("--dtype", choices=DTYPES, default="float32")
    shape.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    shape.add_argument("--engine", default="", metavar="NAME", help="ours on this one: cpu, reference, cuda sm90, cuda sm80")
    shape.add_argument("--backward", action="store_true", help="forward and backward together; else forward alone")
    effort = parser.add_argument_group("measurement")
    effort.add_argument("--repeats", type=whole(1), default=5, metavar="N", help="rounds, in each of which all run once (5)")
    effort.add_argument("--threads", type=whole(1), metavar="N", help="torch's threads (its own choice)")
    effort.add_argument(
        "--peers", type=peer_names, default=list(PEERS), metavar="NAME,...", help=f"who runs beside ours: {', '.join(PEERS)}; or none"
    )
    effort.add_argument(
        "--dense-limit", type=whole(0), default=16384, metavar="N", help="no dense and no flex beyond so many tokens (16k)"
    )
    effort.add_argument("--no-compile", action="store_true", help="FlexAttention as it is without torch.compile")
    effort.add_argument("--memory", action="store_true", help="measure memory too, of each in a process of its own")
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=output_path("--json", ""), metavar="FILE", help="write all that was measured")
    output.add_argument("--chart", type=output_path("--chart", ".svg"), metavar="FILE.svg", help="draw time over length")


def check_device(device: str) -> None:
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        refuse("--device", "must be one that torch sees", device, "use --device cpu")
    x = torch.zeros(1, 1, 1, 8, device=device, dtype=torch.float16)
    try:
        dilated_attention(x, x, x, [1], [1])
    except RuntimeError as error:
        words = str(error).splitlines()[0]
        refuse("--device", "must be one that the library is compiled for", device, f"use --device cpu, or see: {words}")


def cases_of(given: argparse.Namespace) -> list[Case]:
    pattern = pattern_of(given, SEGMENTS, RATES)
    kv_heads = given.kv_heads or given.heads
    if given.heads % kv_heads:
        refuse("--kv-heads", f"must divide --heads, which is {given.heads}", kv_heads)
    check_device(given.device)
    with use_engine(given.engine):
        pass  # refused before anything runs
    return [
        Case(pattern, n, given.heads, kv_heads, given.dim, given.batch, given.dtype, given.device, given.backward, given.engine)
        for n in (given.lens or ([given.length] if given.length else LENGTHS))
    ]


def bench_command(given: argparse.Namespace) -> None:
    cases = cases_of(given)
    before = torch.get_num_threads()
    torch.set_num_threads(given.threads or before)
    try:
        facts = machine(given.device)
        print(machine_words(facts))
        print(f"pattern: {cases[0].pattern!r}")
        print(f"times: of {given.repeats} interleaved rounds after one that is not timed; errors: the largest, beside ours")
        if given.memory:
            print("extra MiB: the most memory that one call takes beside its inputs and results, in a process of its own")
        results = []
        for case in cases:
            results.append(run_case(case, given.peers, given.repeats, given.dense_limit, not given.no_compile, say))
            if given.memory:
                measure(results[-1], torch.get_num_threads())
            print("\n" + result_text(results[-1]), flush=True)
    finally:
        torch.set_num_threads(before)
    if given.json is not None:
        given.json.write_text(json.dumps(report_json(facts, results), indent=1) + "\n", encoding="utf-8")
        print(f"\nwrote {given.json}")
    if given.chart is not None:
        chart(facts, results).save(given.chart)
        print(f"wrote {given.chart}")


def main(arguments: list[str] | None = None) -> int:
    words = "Times longstride beside dense SDPA, FlexAttention and LongNet's official algorithm."
    parser = argparse.ArgumentParser(prog="python -m longstride.bench", description=words, allow_abbrev=False)
    add_options(parser)
    return run_command(parser, parser.parse_args(arguments), bench_command)


if __name__ == "__main__":
    sys.exit(main())
