"""How threads wait for one another: asleep, so that processes which share cores do not take them from each other."""

import os

CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # of OpenMP, by which a user decides otherwise


def wait_asleep() -> None:
    """Let OpenMP's threads sleep while they wait; before torch is loaded, which reads this once.

    By default they spin for milliseconds at the end of every operation. Where another process wants the core, the
    thread that they wait for does not get on meanwhile, and all together become many times slower than one alone.
    """
    if not any(name in os.environ for name in CHOSEN):
        os.environ["OMP_WAIT_POLICY"] = "passive"


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
