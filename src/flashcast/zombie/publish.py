"""Publishing: a document and its cohorts' files, so that readers see the old or the new, and operators each other.

What is published is read first, and says which version comes next. Then the app's document is written, by
compare-and-swap: that decides who of several publishers goes on, and it is the one that matters to most readers. Then
each cohort's file, likewise by compare-and-swap and never over a newer one. Each file is whole and signed in itself and
all carry the same version, so a publisher that is killed between two of them leaves some cohorts with the last decision
and the rest with the new one, and nothing broken; the next publication, by whomever, mends that. Then everything is
read back, and if a public address is given, fetched from there as apps would.

The version is the last one plus one, or the Unix time in seconds if that is more: so it also grows past what clients
have seen where a bucket was emptied or restored from a backup.

Works with the bucket's credentials and a signing key alone; no server of ours is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from flashcast.clock import Clock, SystemClock
from flashcast.errors import BusyError, EnvironmentFault, InputError
from flashcast.zombie import keys as keyring
from flashcast.zombie.bounds import SPLITS_MAX
from flashcast.zombie.client.http import Transport, urllib_transport
from flashcast.zombie.document import Cohort, Document, Level, RefusedError, Terms, file_name
from flashcast.zombie.envelope import Opened, open_sealed, seal
from flashcast.zombie.history import keep
from flashcast.zombie.keys import SigningKey, Trusted
from flashcast.zombie.public import PublicCheck, check_public
from flashcast.zombie.targets import Stored, SwappedError, Target, open_target

LASTS_S_DEFAULT: Final = 3_600
"""A decision that nobody repeats ends after an hour."""


class OvertakenError(BusyError):
    """Somebody else has published since. ``version`` is theirs, 0 where it cannot be told."""

    def __init__(self, message: str, *, version: int = 0) -> None:
        super().__init__(message, remedy="Look at what they published, decide again, then publish.")
        self.version = version


class PublishedFile(NamedTuple):
    """One file as it was found. ``opened`` is None where it is missing (``stored`` None) or not genuine (``fault``)."""

    name: str
    cohort: Cohort | None
    stored: Stored | None
    opened: Opened | None
    fault: str = ""

    @property
    def version(self) -> int:
        """Its version, 0 where there is none."""
        return self.opened.document.version if self.opened else 0


class Published(NamedTuple):
    """What is published for an app: its document, and the files of the cohorts that the document names."""

    main: PublishedFile
    cohorts: tuple[PublishedFile, ...]

    @property
    def document(self) -> Document | None:
        """The app's document, where there is a genuine one. It may have expired."""
        return self.main.opened.document if self.main.opened else None

    @property
    def version(self) -> int:
        """The highest version of any file, 0 where there is none."""
        return max(file.version for file in (self.main, *self.cohorts))

    @property
    def is_whole(self) -> bool:
        """Whether every file has the same version. If not, a publisher was interrupted: publish again."""
        return all(file.version == self.main.version for file in self.cohorts)


class Publication(NamedTuple):
    """What was done.

    ``files``      in the order written
    ``compared``   whether the target made sure, for each file, that nobody else's was overwritten
    ``public``     what the public address showed; None where none was given
    ``kept``       whether a copy was kept for repair; None where none was asked for
    """

    document: Document
    files: tuple[str, ...]
    compared: bool
    public: PublicCheck | None
    kept: bool | None = None


class _Job(NamedTuple):
    """A file to write: what is there, what shall be, and the document in that."""

    found: PublishedFile
    data: bytes
    document: Document


def read_published(target: Target | str | Path, app: str, trusted: Trusted) -> Published:
    """What is published for ``app``, judged by the ``trusted`` keys. Times are not looked at.

    Raises EnvironmentFault where the target cannot be read.
    """
    at = _target(target)
    main = _read(at, app, None, trusted)
    splits = main.opened.document.cohorts if main.opened else ()
    return Published(main, _read_all(at, app, _cohorts(splits), trusted))


def publish(
    target: Target | str | Path,
    terms: Terms,
    keys: Sequence[SigningKey],
    *,
    lasts_s: int = LASTS_S_DEFAULT,
    not_before: int | None = None,
    trusted: Trusted | None = None,
    expect: int | None = None,
    replace: bool = False,
    forget_cohorts: bool = False,
    public_url: str | None = None,
    history: bool = False,
    clock: Clock | None = None,
    transport: Transport = urllib_transport,
    sleep: Callable[[float], None] = time.sleep,
) -> Publication:
    """Publishes ``terms`` for ``lasts_s`` seconds from ``not_before`` (default: now), signed with all of ``keys``.

    trusted         who may have signed what is there now; default: ``keys``
    expect          the version that was looked at when this was decided (0: there was none)
    replace         go on where a file is there that is not genuine; it is lost
    forget_cohorts  splits that are published and not in ``terms.cohorts`` are set to normal, for the last time. By
                    default they are published as well: apps that ask for them are still about
    public_url      address of the directory or prefix as apps see it: fetched until the new document is there
    history         keep a copy of the document, and of the one it replaces, for repair (see history.py)

    Raises InputError where the terms, the keys or a foreign file stand in the way; OvertakenError where ``expect`` is
    not what is there or somebody publishes at the same time; EnvironmentFault where the target fails. Unless the
    message says otherwise nothing was changed.
    """
    at, now = _target(target), (clock or SystemClock()).time()
    believed = keyring.trusted(keys) if trusted is None else trusted
    with at.exclusive():
        found = read_published(at, terms.app, believed)
        if expect is not None and found.version != expect:
            raise OvertakenError(f"version {found.version} is published, not {expect}", version=found.version)
        splits, gone = _splits(found, terms, forget=forget_cohorts)
        files = (*found.cohorts, *_read_all(at, terms.app, _cohorts(set(splits) - _known(found)), believed))
        _check_genuine((found.main, *files), replace=replace)
        version = max(Published(found.main, files).version + 1, int(now))
        said = terms.changed(cohorts=splits)

        def job(file: PublishedFile) -> _Job:
            chosen = _normal(said) if file.cohort and file.cohort.of in gone else said
            document = chosen.document(
                version=version, now=now, lasts_s=lasts_s, not_before=not_before, cohort=file.cohort
            )
            return _Job(file, seal(document, keys), document)

        jobs = [job(file) for file in (found.main, *files)]
        compared = _write(at, jobs, believed)
        kept = _keep(at, found.main, jobs[0].data, version, terms.app) if history else None
    name = found.main.name
    public = check_public(public_url, name, version, believed, transport=transport, sleep=sleep) if public_url else None
    return Publication(jobs[0].document, tuple(one.found.name for one in jobs), compared, public, kept)


def _keep(at: Target, before: PublishedFile, data: bytes, version: int, app: str) -> bool:
    """Copies for repair. The document before has one already, unless its publisher was killed before that."""
    whole = before.opened is None or before.stored is None or keep(at, app, before.version, before.stored.data)
    return keep(at, app, version, data) and whole


def _splits(found: Published, terms: Terms, *, forget: bool) -> tuple[tuple[int, ...], frozenset[int]]:
    """The splits to go on with, and those to be given up."""
    before = _known(found)
    splits = terms.cohorts if forget else tuple(dict.fromkeys((*terms.cohorts, *sorted(before))))
    if len(splits) > SPLITS_MAX:
        raise InputError(
            f"cohorts: {', '.join(map(str, splits))} are more than {SPLITS_MAX} splits",
            remedy="Forget those that no app asks for any more.",
        )
    return splits, frozenset(before - set(splits))


def _known(found: Published) -> set[int]:
    return {file.cohort.of for file in found.cohorts if file.cohort}


def _normal(terms: Terms) -> Terms:
    return terms.changed(level=Level.NORMAL, buckets=0, off=(), keep=(), message={}, manual=None)


def _check_genuine(files: Iterable[PublishedFile], *, replace: bool) -> None:
    for file in files:
        if file.stored is not None and file.opened is None and not replace:
            raise InputError(
                f"{file.name} is there and is not genuine: {file.fault}",
                remedy="Name the key that signed it among the trusted ones, or say that it is to be replaced.",
            )


def _write(at: Target, jobs: Sequence[_Job], trusted: Trusted) -> bool:
    """Writes the app's document, then the others, each compared and read back. Returns whether all were compared."""
    compared = _put(at, jobs[0], trusted)
    failed: list[str] = []

    def put(job: _Job) -> bool:
        try:
            return _put(at, job, trusted)
        except EnvironmentFault as error:
            # The others are tried all the same: every cohort that hears of it is worth having.
            failed.append(f"{job.found.name}: {error.message}")
            return True

    with ThreadPoolExecutor(at.parallel) as pool:
        compared &= all(list(pool.map(put, jobs[1:])))
    if failed:
        raise EnvironmentFault(
            f"the app's document is published; {len(failed)} of {len(jobs) - 1} cohorts' files are not: {failed[0]}",
            remedy="Publish again: that writes all of them anew.",
            retryable=True,
        )
    return compared


def _put(at: Target, job: _Job, trusted: Trusted) -> bool:
    try:
        compared = at.write(job.found.name, job.data, job.found.stored)
    except SwappedError:
        raise _overtaken(at, job, trusted) from None
    there = at.read(job.found.name)
    if there is None or there.data != job.data:
        now = _read(at, "", job.found.cohort, trusted, name=job.found.name)
        if now.version >= job.document.version and now.opened and now.opened.document != job.document:
            raise _overtaken(at, job, trusted)
        shows = now.fault or (f"version {now.version}, in other bytes" if now.opened else "no file")
        if now.opened and now.version < job.document.version:
            shows = f"still version {now.version}"
        raise EnvironmentFault(
            f"{at.url}/{job.found.name} is not what was written to it: reading it back gives {shows}",
            remedy="Something else writes there, the store does not keep what it is given, or it is read through a "
            "cache. Look at it again before you rely on it.",
        )
    return compared


def _overtaken(at: Target, job: _Job, trusted: Trusted) -> OvertakenError:
    theirs = _read(at, "", job.found.cohort, trusted, name=job.found.name).version
    return OvertakenError(f"somebody else has published {job.found.name} meanwhile (version {theirs})", version=theirs)


def _target(target: Target | str | Path) -> Target:
    return open_target(target) if isinstance(target, str | Path) else target


def _cohorts(splits: Iterable[int]) -> list[Cohort]:
    return [Cohort(index=index, of=of) for of in sorted(splits) for index in range(of)]


def _read_all(at: Target, app: str, cohorts: Sequence[Cohort], trusted: Trusted) -> tuple[PublishedFile, ...]:
    with ThreadPoolExecutor(at.parallel) as pool:
        return tuple(pool.map(lambda cohort: _read(at, app, cohort, trusted), cohorts))


def _read(at: Target, app: str, cohort: Cohort | None, trusted: Trusted, *, name: str = "") -> PublishedFile:
    named = name or file_name(app, cohort)
    stored = at.read(named)
    if stored is None:
        return PublishedFile(named, cohort, None, None)
    try:
        opened = open_sealed(stored.data, trusted)
    except RefusedError as error:
        return PublishedFile(named, cohort, stored, None, error.message)
    if file_name(opened.document.app, opened.document.cohort) != named:
        return PublishedFile(named, cohort, stored, None, "it is another app's or another cohort's")
    return PublishedFile(named, cohort, stored, opened)
