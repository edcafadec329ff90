"""What `scripts/lab/benchmark.py` measures, a file each: this project and its peer, in turn, in one run."""
