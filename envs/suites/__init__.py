"""Suites of other projects, by name: Meta-World, gymnasium-robotics, gym-pusht.

Each is an extra of this project (`pip install 'diffpolicy[metaworld]'`), imported when one of its environments is
made, and not before. What is done to them here: `reset(seed=)` means the same episode, to the bit; observations and
`info` have readable keys; cameras need no display; `metadata["task"]` says what results mean; and each has an expert.
"""
