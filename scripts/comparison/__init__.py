"""What `diffpolicy-compare` is made of: the plan, the measured rows, tables, plots and the page."""
