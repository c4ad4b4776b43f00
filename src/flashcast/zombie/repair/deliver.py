"""Grants -> a webhook or a file, each once. Whenever it is interrupted, the same command goes on where it was.

**Webhook.** Exactly once cannot be had over a network: whoever is killed between a call and noting its answer cannot
know. What is kept is one key per grant, the same in every attempt of every run, an intent before each call, and the
outcome after it. So a receiver that remembers keys grants once; and one that does not can be spared the doubtful
calls (``Doubt.SKIP``): then nobody is granted twice, and those in doubt are counted for people to look at.

**File.** Lines are appended to a part file and synced, then the ledger notes them together with the length; what lies
behind that length was never noted, and is cut off on the way back in. When all are there the part is renamed. So here
it is exactly once.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import urlsplit

from flashcast.errors import EnvironmentFault, InputError
from flashcast.zombie.client.http import Transport, urllib_transport
from flashcast.zombie.client.writes import Fate
from flashcast.zombie.repair.grants import Grant, Grants, line_of
from flashcast.zombie.repair.ledger import Entry, Ledger, State
from flashcast.zombie.repair.rules import RepairRules
from flashcast.zombie.repair.webhook import Called, Webhook, call_name

FAILURES_MAX: Final = 20
"""Calls in a row that came to nothing, each after all its attempts: then the receiver is down, and the run ends."""
_AHEAD: Final = 4
"""Intents for each call under way: what one sync of the ledger pays for."""
_ENDINGS: Final = (".jsonl", ".csv")
_CSV: Final = ("key", "grant", "incident", "user", "from", "until", "minutes", "dates", "levels", "payload")
_LENGTH: Final = "length"
_LOOK_S: Final = 0.2
"""How often `stop` is asked while calls are under way."""
INTERRUPTED: Final = "interrupted"


class Doubt(StrEnum):
    """What to do with grants whose call may have worked."""

    AGAIN = "again"
    """Sent again with the same key."""
    SKIP = "skip"
    """Left alone, and counted."""


@dataclass
class Delivered:
    """What a run did. Counts are grants, but for ``calls``: requests that were made.

    ``before``   were done before this run; ``open`` are still to be done, ``doubt`` of them (or beside them) may be
    """

    grants: int = 0
    before: int = 0
    done: int = 0
    refused: int = 0
    open: int = 0
    doubt: int = 0
    calls: int = 0
    stopped: str = ""
    """Why it ended early."""


Tell = Callable[[int, int | None], None]
Stop = Callable[[], bool]
"""Whether to end: what is under way is let end and noted. An exception could strike between an answer and its note."""


def receiver_of(rules: RepairRules, to: str) -> str:
    """A receiver's name in the ledger: ``webhook https://host/path``, or ``file /path``. Without query and password.

    Raises InputError where it is neither, or the rules have no webhook.
    """
    if to != "webhook":
        if Path(to).suffix not in _ENDINGS:
            raise InputError(f"--to {to}: is neither webhook nor a file that ends in {' or '.join(_ENDINGS)}")
        return f"file {Path(to).expanduser().absolute()}"
    if rules.webhook is None:
        raise InputError("--to webhook: the rules have no [webhook]", remedy="Add it, or give a file.")
    parts = urlsplit(rules.webhook.url)
    return f"webhook {parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def to_webhook(
    rules: RepairRules,
    grants: Grants,
    ledger: Ledger,
    *,
    doubt: Doubt = Doubt.AGAIN,
    refused_again: bool = False,
    tell: Tell = lambda done, total: None,
    stop: Stop = lambda: False,
    transport: Transport = urllib_transport,
    pause: Callable[[float], bool] | None = None,
) -> Delivered:
    """Calls the webhook for every grant that is not done. Raises CredentialError, and what the ledger raises."""
    assert rules.webhook is not None
    ledger.belongs_to(rules.app, receiver_of(rules, "webhook"))
    ended = threading.Event()
    webhook = Webhook(
        rules.webhook, random=random.random, now=time.time, pause=pause or ended.wait, transport=transport,
        send_again=doubt is Doubt.AGAIN,
    )  # fmt: skip
    return _Run(rules, grants, ledger, webhook, doubt, refused_again, ended, tell, stop).run()


class _Run:
    """One run: this thread alone uses the ledger, others make the calls."""

    def __init__(
        self, rules: RepairRules, grants: Grants, ledger: Ledger, webhook: Webhook, doubt: Doubt, refused_again: bool,
        ended: threading.Event, tell: Tell, stop: Stop,
    ) -> None:  # fmt: skip
        assert rules.webhook is not None
        self._batch, self._concurrency = rules.webhook.batch, rules.webhook.concurrency
        self._grants, self._ledger, self._webhook, self._tell = grants, ledger, webhook, tell
        self._doubt, self._refused_again, self._ended, self._stop = doubt, refused_again, ended, stop
        self._open: dict[Future[Called], tuple[str, list[Grant]]] = {}
        self._failures = 0
        self._doubtful: set[str] = set()
        self.found = Delivered(grants=len(grants))

    def run(self) -> Delivered:
        found, calls = self.found, self._calls()
        with ThreadPoolExecutor(self._concurrency) as pool:
            try:
                while not found.stopped:
                    room = self._concurrency * (1 + _AHEAD) - len(self._open)
                    some = [call for _, call in zip(range(max(0, room)), calls, strict=False)] if room > 0 else []
                    if some:
                        self._intend(some)
                        for name, batch in some:
                            self._open[pool.submit(self._called, name, batch)] = (name, batch)
                    if not self._open:
                        break
                    self._settle()
            finally:
                # An interrupt ends the waits between attempts; calls under way are let end, and their answers noted.
                self._ended.set()
                while self._open:
                    self._settle()
        found.open = found.grants - found.before - found.done - found.refused
        return found

    def _called(self, name: str, batch: list[Grant]) -> Called:
        if self._ended.is_set():
            return Called(Fate.AGAIN, 0, 0, doubt=False)
        return self._webhook.call(name, batch)

    def _calls(self) -> Iterator[tuple[str, list[Grant]]]:
        """The calls to make. Grants in doubt go with the very call they went with, or the key would be another."""
        fresh: list[Grant] = []
        again: dict[str, list[Grant]] = {}
        for page in self._grants.pages():
            known = self._ledger.entries([grant.key for grant in page])
            for grant in page:
                entry = known.get(grant.key)
                if entry is None:
                    fresh.append(grant)
                elif entry.state is State.SENT and self._doubt is Doubt.AGAIN:
                    again.setdefault(entry.call, []).append(grant)
                elif entry.state is State.SENT:
                    self.found.doubt += 1
                elif entry.state is State.REFUSED and self._refused_again:
                    fresh.append(grant)
                else:
                    self.found.before += entry.state is State.DONE
                    self.found.refused += entry.state is State.REFUSED
            while len(fresh) >= self._batch:
                batch, fresh = fresh[: self._batch], fresh[self._batch :]
                yield call_name(batch), batch
        if fresh:
            yield call_name(fresh), fresh
        self._doubtful = {grant.key for batch in again.values() for grant in batch}
        if self._batch == 1 and any(name != grant.key for name, batch in again.items() for grant in batch):
            raise InputError(
                "webhook.batch: grants in doubt were sent several in a call, with a key of its own; one by one they "
                "would have other keys, and could be granted twice",
                remedy="Set batch as it was until none is in doubt; or add --doubt skip.",
            )
        yield from again.items()

    def _intend(self, calls: Sequence[tuple[str, list[Grant]]]) -> None:
        self._ledger.put(Entry(grant.key, State.SENT, name, 0, 0) for name, batch in calls for grant in batch)

    def _settle(self) -> None:
        """Waits for the next answers, and notes all that are there in one transaction."""
        done, _ = wait(self._open, timeout=_LOOK_S, return_when=FIRST_COMPLETED)
        if self._stop() and not self.found.stopped:
            self.found.stopped = INTERRUPTED
            self._ended.set()
        if not done:
            return
        entries: list[Entry] = []
        undone: list[str] = []
        for future in done:
            name, batch = self._open.pop(future)
            called = future.result()
            noted = self._noted(name, batch, called)
            if noted[0].state is State.SENT and not called.doubt:
                # Surely nothing was done, so nothing is in doubt, unless it was from an earlier run.
                undone += [one.key for one in noted if one.key not in self._doubtful]
            entries += noted
        self._ledger.put(entries, gone=undone)
        self._tell(self.found.before + self.found.done + self.found.refused, self.found.grants)

    def _noted(self, name: str, batch: list[Grant], called: Called) -> list[Entry]:
        found = self.found
        found.calls += called.attempts
        if called.fate is Fate.AGAIN:
            found.doubt += sum(called.doubt or grant.key in self._doubtful for grant in batch)
            self._failures += called.attempts > 0
            if self._failures >= FAILURES_MAX and not found.stopped:
                said = f"answered {called.status}" if called.status else "did not answer"
                found.stopped = f"{self._failures} calls in a row came to nothing; the last one {said}"
                self._ended.set()
            # The intent stays, so that the next run sends it with the same key, or leaves it alone.
            return [Entry(grant.key, State.SENT, name, called.status, called.attempts) for grant in batch]
        self._failures = 0
        state = State.DONE if called.fate is Fate.APPLIED else State.REFUSED
        if state is State.DONE:
            found.done += len(batch)
        else:
            found.refused += len(batch)
        return [Entry(grant.key, state, name, called.status, called.attempts) for grant in batch]


def to_file(
    rules: RepairRules,
    grants: Grants,
    ledger: Ledger,
    out: Path,
    *,
    tell: Tell = lambda done, total: None,
    stop: Stop = lambda: False,
) -> Delivered:
    """Writes every grant that is not done to ``out`` (.jsonl or .csv), which is there when all are in it."""
    receiver = receiver_of(rules, str(out))
    if out.absolute() == ledger.path.absolute():
        raise InputError(f"--to {out} is the ledger", remedy="Give the ledger a file of its own.")
    ledger.belongs_to(rules.app, receiver)
    part = out.with_name(f".{out.name}.part")
    length = int(ledger.meta(_LENGTH) or 0)
    found = Delivered(grants=len(grants))
    try:
        with _part(part, out, length) as file:
            for page in grants.pages():
                if stop():
                    found.stopped = INTERRUPTED
                    found.open = found.grants - found.before - found.done
                    return found
                known = ledger.entries([grant.key for grant in page])
                fresh = [grant for grant in page if grant.key not in known]
                found.before += len(page) - len(fresh)
                if fresh:
                    head = ",".join(_CSV) + "\n" if out.suffix == ".csv" and not length else ""
                    length += file.write((head + "".join(map(_line(out), fresh))).encode())
                    file.flush()
                    os.fsync(file.fileno())
                    ledger.put([Entry(one.key, State.DONE, "", 0, 1) for one in fresh], [(_LENGTH, str(length))])
                found.done += len(fresh)
                tell(found.before + found.done, found.grants)
        part.replace(out)
        descriptor = os.open(out.absolute().parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write {out}: {error.strerror}", remedy="Free the disk, then run the same command again."
        ) from None
    return found


def _part(part: Path, out: Path, length: int) -> BinaryIO:
    """The part file at the length that the ledger knows. Raises InputError where the lines are gone."""
    source = part if part.exists() else out if out.exists() else None
    size = source.stat().st_size if source is not None else 0
    if size < length or (source is out and size != length):
        raise InputError(
            f"{out} is not what was written to it: the ledger knows of {length:,} bytes, and {size:,} are there",
            remedy="Put it back as it was, or begin with a new ledger, which grants everything anew.",
        )
    if source is out:
        temporary = part.with_name(f"{part.name}.copy")
        descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as copy:
            with out.open("rb") as file:
                shutil.copyfileobj(file, copy)
            copy.flush()
            os.fsync(copy.fileno())
        temporary.replace(part)
    os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
    opened = part.open("rb+")
    opened.truncate(length)
    opened.seek(length)
    return opened


def _line(out: Path) -> Callable[[Grant], str]:
    return line_of if out.suffix == ".jsonl" else _csv_line


def _csv_line(grant: Grant) -> str:
    told = grant.told
    said = told | {"dates": " ".join(told["dates"]), "levels": " ".join(told["levels"])}
    text = io.StringIO()
    # The writer quotes what is in its line end: with "\n" alone, an id with "\r" would be two rows to most readers.
    csv.writer(text, lineterminator="\r\n").writerow(
        [json.dumps(said[name], separators=(",", ":")) if name == "payload" else said[name] for name in _CSV]
    )
    return text.getvalue().removesuffix("\r\n") + "\n"
