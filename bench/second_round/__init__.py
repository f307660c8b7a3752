"""The parts of bench/cuda_round.py: the cases, what they are measured beside, how, and what is made of the results."""
