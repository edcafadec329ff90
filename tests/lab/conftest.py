"""Fixtures that several tests of the laboratory share."""

import pytest
from comparing import quick


@pytest.fixture(scope="module")
def hasty():
    with quick():
        yield
