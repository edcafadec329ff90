"""A package that plugs into diffpolicy: its entry points are in pyproject.toml."""
