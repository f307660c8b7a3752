"""Timing tables: our attention beside dense SDPA, FlexAttention and LongNet's official algorithm.

    python -m longstride.bench --lens 2k,4k,8k --causal --json bench.json --chart bench.svg

The peers are torch's own and share no line with the library.
"""
