"""The benchmarks of the laboratory run, small; what they measure is not asserted."""

import math

from benchmarks import overhead


def test_the_overhead_of_loop_and_adapter(monkeypatch):
    monkeypatch.setattr(overhead, "STEPS", 20)
    monkeypatch.setattr(overhead, "BUSY", 1e-5)
    monkeypatch.setattr(overhead.os, "sched_setaffinity", lambda *given: None, raising=False)
    found = overhead.measure(rounds=2, seed=0)
    assert list(found) == [f"{busy} ms a step, {kind}" for busy in ("0.01", "0") for kind in ("array", "dict")]
    for case in found.values():
        added = case["overhead_us"]
        assert added["low"] <= added["median"] <= added["high"] and math.isfinite(added["median"])
        assert case["seconds"]["ours"] > 0 and case["steps"] == 20
