"""The parts of `compare.py`: the plan, the stored results, tables, plots and the page."""
