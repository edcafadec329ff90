"""Processes that do not end when they should, and calls that return just when their process is killed."""

import functools
import gc
import multiprocessing
import threading
import time
from multiprocessing.connection import Connection

import pytest

from diffpolicy.evaluation import Reset, shards
from diffpolicy.evaluation.journal import Call, Journal
from diffpolicy.evaluation.rollout import _mourn
from diffpolicy.evaluation.shards import Death, run_shards

CALL = Call("step", 1, 3)


def clinging(how, journal):
    """Work in a process that does not end: by a thread that runs on, or behind a pipe that is closed."""
    yield how
    if how == "thread":
        threading.Thread(target=time.sleep, args=(1000,)).start()
    else:
        for one in gc.get_objects():
            if isinstance(one, Connection):
                one.close()
        time.sleep(1000)


def test_processes_that_do_not_end_are_killed(monkeypatch):
    monkeypatch.setattr(shards, "_PATIENCE", 0.2)
    died = []

    def mourn(shard, death):
        died.append(death.says)
        return ["in its place"], None

    found = list(run_shards(clinging, ["thread", "pipe"], mourn))
    assert sorted(found) == [(0, "thread"), (1, "in its place"), (1, "pipe")]
    assert died == ["its process no longer answered, and was killed"]
    assert not multiprocessing.active_children()


class Killed:
    """A process whose call returns just when it is killed."""

    exitcode = None

    def __init__(self, journal):
        self.journal = journal

    def join(self, timeout=None):
        pass

    def kill(self):
        self.journal.end()
        self.exitcode = -9


def test_a_call_that_returns_while_its_process_is_killed_is_still_the_one_that_hung():
    journal = Journal()
    journal.begin(*CALL)
    here, there = multiprocessing.Pipe()
    worker = shards._Worker(Killed(journal), journal, 0, None)
    while worker.hung is None:
        shards._ready({here: worker}, 0.02)
    assert journal.call is None and shards._death(worker, 0.02).call == CALL
    here.close(), there.close()


@pytest.mark.parametrize("what", ["step", "close"])
def test_the_death_of_a_process_whose_episode_is_over_costs_none(what):
    numbered = [(number, Reset(number)) for number in range(3)]
    mourn = functools.partial(_mourn, lambda: None, {1})
    assert mourn(numbered, Death("it hung", CALL._replace(what=what))) == ([], [numbered[0], numbered[2]])
    (failed, _), *_ = mourn(numbered, Death("it hung", Call("step", 2, 3)))[0]
    assert failed.number == 2 and failed.error.endswith("seed 2, step 3: it hung")
