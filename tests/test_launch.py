"""Threads of a run: a pool thread leaves the core it was woken from, and may use the same cores as before."""

import os
import threading

import pytest

from fastbp.cpu import launch

CORES = {0, 1, 5}


class System:
    """What a system with the cores `CORES` is asked for; the calling thread is on core 1."""

    def __init__(self, monkeypatch, allowed=frozenset(CORES), refusal=None):
        self.allowed, self.asked, self.refusal = set(allowed), [], refusal
        monkeypatch.setattr(launch, "_core_here", lambda: lambda: 1)
        monkeypatch.setattr(os, "sched_getaffinity", lambda thread: set(self.allowed), raising=False)
        monkeypatch.setattr(os, "sched_setaffinity", self.choose, raising=False)

    def choose(self, thread, cores):
        self.asked.append((thread, set(cores)))
        if self.refusal is not None and len(self.asked) == 1:
            raise self.refusal


def test_a_thread_leaves_the_core_and_gets_it_back(monkeypatch):
    system = System(monkeypatch)
    launch.leave_core(1)
    assert system.asked == [(0, {0, 5}), (0, CORES)]


@pytest.mark.parametrize("allowed, core", [(CORES, 0), (CORES, -1), ({1}, 1)])
def test_it_stays_where_it_is_alone_or_has_no_other(monkeypatch, allowed, core):
    system = System(monkeypatch, allowed)
    launch.leave_core(core)
    assert system.asked == []


@pytest.mark.parametrize("refusal", [PermissionError("no"), OSError(22, "no such cores")])
def test_a_refusal_changes_nothing(monkeypatch, refusal):
    system = System(monkeypatch, refusal=refusal)
    launch.leave_core(1)
    assert system.asked[-1] == (0, CORES)


def test_a_system_that_does_not_tell(monkeypatch):
    system = System(monkeypatch)
    monkeypatch.setattr(launch, "_core_here", lambda: None)
    launch.leave_core(1)
    assert system.asked == []


class Call:
    """A worker whose first part waits for the second one."""

    def __init__(self):
        self.cores, self.there = {}, threading.Event()

    def call(self, run, me):
        self.cores[me] = os.sched_getaffinity(0)
        self.there.set() if me else self.there.wait(30)
        return run


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system doesn't let threads choose their cores")
def test_the_threads_of_a_run_may_use_the_cores_they_might(monkeypatch):
    core, before = launch._core_here(), os.sched_getaffinity(0)
    assert core is None or core() in before
    monkeypatch.setattr(launch, "_core_here", lambda: lambda: min(before))  # all on one
    work = Call()
    launch.by_threads(work, 7, 2)
    assert work.cores == {0: before, 1: before}
    assert os.sched_getaffinity(0) == before
