import multiprocessing
import os
import sys

import minimal
import pytest


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """No test cuts the power, and flushing takes most of the time of a minimal run."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def processes(monkeypatch):
    """A context whose processes start in milliseconds: what forks them has imported torch already, and not pytest."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.delattr(main, "__file__", raising=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffpolicy.training", "torch._dynamo"])  # which an optimizer imports
    return context


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The last checkpoint of a run of twelve steps that nothing disturbed, with evaluations."""
    return minimal.run(tmp_path_factory.mktemp("whole") / "run", evaluate=minimal.score)
