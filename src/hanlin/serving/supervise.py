"""Begins the service again whenever it ends by itself, where neither systemd nor a container's runtime does."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

BAD_USAGE = 2
"""Status of a process that would end alike if it began again."""
REST_SECONDS = 1
"""Between an end and the next beginning."""


def supervise(say: Callable[[str], None]) -> bool:
    """Return in a process of its own, and again in another whenever that one ends by itself; True the first time.

    The caller's process stays here until it is told to stop (SIGTERM, SIGINT): it passes that on, awaits the end, and
    exits as that did. It must have no other threads; what it has imported is there when the service begins again.
    """
    child, told, first = 0, False, True

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal told
        told = True
        if child:
            os.kill(child, number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    while True:
        # A signal between the fork and the note of it would reach nobody.
        signal.pthread_sigmask(signal.SIG_BLOCK, before)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)  # Ctrl-C in a terminal is the supervisor's to pass on
            for number, handler in before.items():
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
        if child == 0:
            return first
        # Not reaped before `child` is 0 again: its number stays its own while signals may be sent to it.
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        ended, child = child, 0
        status = os.waitstatus_to_exitcode(os.waitpid(ended, 0)[1])
        if told or status == BAD_USAGE:
            sys.exit(status if status >= 0 else 128 - status)
        how = f"status {status}" if status >= 0 else signal.Signals(-status).name
        say(f"The service ended ({how}); it begins again.")
        first = False
        time.sleep(REST_SECONDS)
        if told:
            sys.exit(0)
