"""Reading ahead: the next batches are decoded in a thread while this one is worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, Final

BATCHES_AHEAD: Final = 2
"""One being decoded and one ready: more would only hold memory."""


def read_ahead(batches: Iterator[Any]) -> Generator[Any, None, None]:
    """Reads a few batches ahead in a thread, and ends the thread when the consumer ends."""
    ready: queue.Queue[Any] = queue.Queue(BATCHES_AHEAD)
    left = threading.Event()

    def put(item: Any) -> bool:
        while not left.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for batch in batches:
                if not put((batch, None)):
                    break
            else:
                put((None, None))
        except BaseException as error:  # noqa: BLE001 - raised again by the consumer
            put((None, error))
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=read, name="flashcast-reader", daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is None:
                return
            yield batch
    finally:
        left.set()
        thread.join()
