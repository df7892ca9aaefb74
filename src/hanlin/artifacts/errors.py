"""Errors that a person can act on."""

from __future__ import annotations


class HanlinError(Exception):
    """A failure that is explained: what was wrong, where (file, line, key), and what to do.

    The command line prints its message without a traceback and exits with status 1.
    """


class UsageError(HanlinError):
    """The request itself was wrong (an unknown key, a missing file named on the command line): exit status 2."""
