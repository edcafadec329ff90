"""Recorded demonstrations that ship with the package; each has a card in README.md."""
