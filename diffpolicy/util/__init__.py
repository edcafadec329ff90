"""Small helpers that every package may use: names, errors, files, seeds, statistics, devices. One of each."""
