"""Properties try the same examples on every run; `HYPOTHESIS_PROFILE=explore` draws new ones."""

import os
import signal

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture
def impatient():
    """Interrupt a test that waits for five seconds, as for the writer of a pipe."""

    def interrupt(*_):
        raise TimeoutError("still waiting")

    former = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)
