"""Imported by the server of `tests.processes` when it begins."""

from tests.processes import warm

warm()
