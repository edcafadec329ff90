"""Recordings written in the formats of other projects."""
