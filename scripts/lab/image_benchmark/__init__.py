"""The parts of `benchmark_images.py`: its cells, plots and tables."""
