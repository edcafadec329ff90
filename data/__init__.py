"""Demonstrations that ship with the package; README.md has their cards."""
