"""A thread that answers sequences while others wait for their pieces."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable

from hanlin.artifacts import HanlinError
from hanlin.inference.scheduler import Load, Scheduler
from hanlin.inference.sequence import Sequence

Listener = Callable[[Sequence, Exception | None], None]
"""Called in the driver's thread when a sequence has advanced or ended, or with what went wrong."""


class Driver:
    """Runs the steps of schedulers that `make` gives; a scheduler is kept while there is work, and longer with `keep`
    (where the weights do not change, so that what it holds of texts stays true)."""

    def __init__(self, make: Callable[[], Scheduler], keep: bool) -> None:
        self._make, self._keep = make, keep
        self._scheduler: Scheduler | None = None
        self._listeners: dict[Sequence, Listener] = {}
        self._orders: list[Callable[[], None]] = []
        self._messages: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="hanlin-engine", daemon=True)
        self._thread.start()

    def submit(self, sequences: Iterable[Sequence], listener: Listener) -> None:
        """Answer these. From any thread."""
        given = list(sequences)

        def order() -> None:
            self._listeners.update(dict.fromkeys(given, listener))
            self._current().add(given)

        self._order(order)

    def cancel(self, sequences: Iterable[Sequence]) -> None:
        """End these before the next step; their listeners hear nothing more. From any thread."""
        given = list(sequences)

        def order() -> None:
            for sequence in given:
                self._listeners.pop(sequence, None)
                if self._scheduler is not None:
                    self._scheduler.cancel(sequence)

        self._order(order)

    def tell(self, loop: asyncio.AbstractEventLoop, message: Callable[[], None]) -> None:
        """For listeners: call `message` in the loop's thread, after this step; all of a step go in one errand."""
        self._messages.setdefault(loop, []).append(message)

    def load(self) -> Load:
        scheduler = self._scheduler
        return Load() if scheduler is None else scheduler.state()

    def close(self) -> None:
        """Stop the thread; whoever waits for an answer gets a HanlinError."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    # ------------------------------------------------------------------

    def _order(self, order: Callable[[], None]) -> None:
        with self._changed:
            self._orders.append(order)
            self._changed.notify()

    def _current(self) -> Scheduler:
        if self._scheduler is None:
            self._scheduler = self._make()
        return self._scheduler

    def _busy(self) -> bool:
        return self._scheduler is not None and self._scheduler.busy

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._orders or self._busy() or self._closed):
                    self._changed.wait()
                if self._closed:
                    break
                orders, self._orders = self._orders, []
            for work in (*orders, self._step):
                try:
                    work()
                except Exception as error:
                    self._fail(error)
            self._send()
            if not self._keep and not self._busy():
                self._scheduler = None

        self._fail(HanlinError("the engine was closed before it had answered"))
        self._send()

    def _step(self) -> None:
        if self._scheduler is not None and self._scheduler.busy:
            for sequence in self._scheduler.step():
                self._hear(sequence)

    def _hear(self, sequence: Sequence) -> None:
        listener = self._listeners.get(sequence)
        if sequence.finish_reason is not None:
            self._listeners.pop(sequence, None)
        if listener is not None:
            listener(sequence, None)

    def _fail(self, error: Exception) -> None:
        """A step went wrong (memory, say): nothing is known of what the cache holds, so all begin anew."""
        listeners, self._listeners, self._scheduler = self._listeners, {}, None
        for sequence, listener in listeners.items():
            listener(sequence, error)

    def _send(self) -> None:
        messages, self._messages = self._messages, {}
        for loop, calls in messages.items():
            try:
                loop.call_soon_threadsafe(_call, calls)
            except RuntimeError:
                # The loop is closed: nobody is there to hear.
                continue


def _call(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()
