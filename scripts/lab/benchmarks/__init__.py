"""What `benchmark.py` measures, one file each: this project and its peer, in turn, in one run.

Each has `measure(rounds, seed)`, which returns case -> {"ratio": …, what else was measured}.
"""
