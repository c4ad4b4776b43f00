"""One complaint as it comes, and what is kept of it."""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from hashlib import blake2b, sha256
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from flashcast.zombie.reports import bounds
from flashcast.zombie.reports.config import ReportsConfig
from flashcast.zombie.reports.sorting import Sorter

DAY_S: Final = 86_400


class Fault(NamedTuple):
    """What is wrong with one field."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class Record(NamedTuple):
    """What is kept. Times in Unix seconds. ``key`` tells a complaint from others; its id cannot be had from it."""

    key: bytes
    at: int
    received: int
    source: str
    feature: str
    platform: str | None
    version: str | None
    locale: str | None
    user: bytes | None
    text: str | None


class Taken(NamedTuple):
    """What became of a batch. ``refused`` has the place in the batch; ``old`` were older than what is kept."""

    records: list[Record]
    refused: list[tuple[int, list[Fault]]]
    old: int = 0
    retimed: int = 0
    """Complaints of open sources whose time could not be, and is now that of receipt."""


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has letters that cannot be printed")
    return text


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


Label = Annotated[str, Field(max_length=bounds.LABEL_CHARS_MAX), AfterValidator(_one_line)]


class _Said(BaseModel):
    """The fields of a complaint."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[str, Field(min_length=1, max_length=bounds.ID_CHARS_MAX), AfterValidator(_one_line),
                  AfterValidator(_filled)]  # fmt: skip
    source: str | None = Field(None, max_length=bounds.LABEL_CHARS_MAX)
    time: Any = None
    feature: Label | None = None
    text: Annotated[str, Field(max_length=bounds.TEXT_CHARS_TAKEN_MAX)] | None = None
    app: Label | None = None
    platform: Label | None = None
    version: Label | None = None
    locale: Label | None = None
    user: Annotated[str, Field(max_length=bounds.USER_CHARS_MAX)] | None = None


def seconds_of_time(value: object, zone: tzinfo | None = None, unit: Literal["s", "ms"] = "s") -> float:
    """A time, RFC 3339 or Unix, in Unix seconds. ``zone`` is that of times without one. Raises ValueError."""
    if isinstance(value, str):
        text = value.strip()
        try:
            # Python would take 1_800_000_000 and the digits of any script.
            value = float(text if text.isascii() and "_" not in text else "")
        except ValueError:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                raise ValueError("is no time: RFC 3339, such as 2026-11-22T18:04:00Z, or Unix seconds") from None
            if moment.tzinfo is None:
                if zone is None:
                    raise ValueError("has no offset from UTC, such as Z or +01:00") from None
                moment = moment.replace(tzinfo=zone)
            try:
                return moment.timestamp()
            except (OverflowError, ValueError):
                raise ValueError("is no time that can be counted") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is no time: RFC 3339, such as 2026-11-22T18:04:00Z, or Unix seconds")
    try:
        found = float(value) / (1_000 if unit == "ms" else 1)
    except OverflowError:
        found = math.inf
    if not 0 <= found <= 253_402_300_799:
        raise ValueError("is no time between 1970 and 9999" + (" in Unix seconds" if unit == "s" else ""))
    return found


class Intake:
    """Makes records of what comes. Holds no state; ``user_key`` is what users are hashed by."""

    def __init__(self, config: ReportsConfig, user_key: bytes | None = None) -> None:
        self.config = config
        self._sorter = Sorter(config)
        self._user_key = user_key if config.users == "hash" else None

    def __repr__(self) -> str:
        return f"<Intake {self.config.app} {self._sorter!r}>"

    def take(
        self,
        said: Sequence[object],
        received: float,
        *,
        source: str | None = None,
        trusted: bool = True,
        zone: tzinfo | None = None,
        unit: Literal["s", "ms"] = "s",
    ) -> Taken:
        """Checks each, sorts them by feature, and leaves out what is not kept. ``source``: where one says none."""
        refused: list[tuple[int, list[Fault]]] = []
        fine: list[tuple[_Said, str, float]] = []
        old = retimed = 0
        for i, one in enumerate(said):
            checked, faults = self._checked(one, source, trusted=trusted)
            at = received
            if checked is not None and checked.time is not None:
                try:
                    at = seconds_of_time(checked.time, zone, unit)
                except ValueError as error:
                    faults.append(Fault("time", f"{error}; {_short(checked.time)} was given"))
            if checked is None or faults:
                refused.append((i, faults))
                continue
            late_s = received - at
            if not trusted and not -bounds.AHEAD_S_MAX <= late_s <= bounds.LATE_S_MAX:
                at, retimed = received, retimed + 1
            elif late_s < -bounds.AHEAD_S_MAX:
                refused.append((i, [Fault("time", f"is {-late_s:.0f} s ahead of our clock")]))
                continue
            elif late_s > self.config.keep_days * DAY_S:
                old += 1
                continue
            fine.append((checked, checked.source or source or "", at))
        features = self._sorter.features([(one.feature, one.text) for one, _, _ in fine])
        records = [
            self._record(one, name, at, received, feature)
            for (one, name, at), feature in zip(fine, features, strict=True)
        ]
        return Taken(records, refused, old, retimed)

    def _checked(self, one: object, source: str | None, *, trusted: bool) -> tuple[_Said | None, list[Fault]]:
        if not isinstance(one, Mapping):
            return None, [Fault("complaint", "is no object")]
        try:
            found = _Said.model_validate(dict(one))
        except ValidationError as error:
            found_wrong = error.errors(include_url=False, include_context=False)
            return None, [_fault(fault) for fault in found_wrong[: bounds.FAULTS_TOLD_MAX]]
        faults = []
        name = found.source or source
        known = self.config.sources.get(name) if name else None
        if name is None:
            faults.append(Fault("source", "is missing"))
        elif known is None:
            faults.append(Fault("source", f"{_short(name)} is not known; there is: {', '.join(self.config.sources)}"))
        elif not trusted and not known.open:
            faults.append(Fault("source", f"{name} needs a token"))
        if found.app is not None and found.app != self.config.app:
            faults.append(Fault("app", f"{_short(found.app)} is another; here is {self.config.app}"))
        return found, faults

    def _record(self, one: _Said, source: str, at: float, received: float, feature: str) -> Record:
        text = one.text[: bounds.TEXT_CHARS_MAX] if one.text and self.config.keep_text else None
        user = None
        if one.user and self._user_key is not None:
            user = hmac.digest(self._user_key, one.user.encode(), sha256)[:16]
        key = blake2b(f"{source}\0{one.id}".encode(), digest_size=16).digest()
        return Record(
            key, int(at), int(received), source, feature, one.platform or None, one.version or None, one.locale or None,
            user, text,
        )  # fmt: skip


def moment(at: float) -> str:
    """A time in RFC 3339, UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _fault(fault: Any) -> Fault:
    """A field's fault. What was given is told only where it cannot be personal: a wrong type, never a text."""
    field = ".".join(str(part) for part in fault["loc"]) or "complaint"
    if fault["type"] == "missing":
        return Fault(field, "is missing")
    if fault["type"] == "extra_forbidden":
        return Fault(field[:LABEL_SHOWN], "there is no such field")
    message = str(fault["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return Fault(field, f"{message[0].lower()}{message[1:]}")


LABEL_SHOWN: Final = 40


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LABEL_SHOWN else f"{text[:LABEL_SHOWN]}…"
