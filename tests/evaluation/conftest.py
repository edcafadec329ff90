import pytest
import tiny

from diffpolicy import registry


@pytest.fixture
def line_expert(monkeypatch):
    """The tiny environment's expert, as an installed package would offer it."""
    monkeypatch.setitem(registry._OWN, "expert", {tiny.ENV_ID: "tiny:LineExpert"})
    registry.known.cache_clear()
    yield
    registry.known.cache_clear()
