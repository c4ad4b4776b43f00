"""Which requests are which feature, and in what order they are given up: one file for the middleware and the proxies.

    app = "shop"
    identify = ["header:x-user-id", "claim:sub", "address"]

    [[routes]]
    path = "/healthz"
    priority = "never"

    [[routes]]
    path = "/api/feed/**"
    feature = "feed"

The first route that fits a request decides. A request that none fits is never shed: what nobody has thought of may be
the load balancer's health check. Whoever wants everything else shed says so, by a last route for `/**`.

A request is shed where its route is reached (by priority, see `Priority`) and its user is in it (by bucket).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flashcast.errors import InputError
from flashcast.zombie.bounds import COHORTS_MAX
from flashcast.zombie.document import EVERYTHING, App, Document, Feature, Level, Writes
from flashcast.zombie.toml_file import read_toml

ROUTES_MAX: Final = 200
"""Each costs a request 0.05 us while something is off: 200 are 10 us."""
IDENTIFY_MAX: Final = 8
ROUTING_BYTES_MAX: Final = 1 << 20
"""200 routes with their patterns are some 30 KB."""
SAFE: Final = frozenset({"GET", "HEAD", "TRACE"})
"""The methods that read (RFC 9110 section 9.2.1), but for OPTIONS, which is never shed: a browser whose preflight is
answered with 503 tells its page nothing, neither status nor Retry-After."""
ALWAYS_SERVED: Final = "OPTIONS"

_SEGMENT: Final = r"[A-Za-z0-9._~!+,;=:@*-]+"
_PATTERN: Final = re.compile(rf"/|(?:/{_SEGMENT})+")
_KEY: Final = r"address|header:[A-Za-z0-9_-]{1,64}|cookie:[A-Za-z0-9_.-]{1,64}|claim:[A-Za-z0-9_.:/-]{1,64}"
_SPECIAL: Final = re.compile(r"[.+*!~-]")


class Priority(StrEnum):
    """When a route is given up. In the order in which routes are."""

    FIRST = "first"
    """For users in it as soon as anything is off, whatever that is: prefetching, suggestions, pictures in advance."""
    NORMAL = "normal"
    """For users in it where the document has its feature off: exactly as clients decide."""
    LAST = "last"
    """For users in it where `off` names its feature; `"*"` does not reach it: payments."""
    NEVER = "never"
    """Not at all, whatever the document says: health checks, the webhooks of others."""


class Route(BaseModel):
    """Requests of one kind.

    A path is matched whole and case by case. ``*`` in it is any text without a slash (alone: at least one letter),
    ``/**`` at its end is anything below, and the place itself. A slash at the end of a request's path is ignored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="A pattern: `/api/feed`, `/users/*/feed`, `/img/*.png`, `/api/**`.")
    feature: Feature | None = Field(None, description="The feature it is, by the name that documents use.")
    priority: Priority = Field(Priority.NORMAL, description="When it is given up.")
    methods: tuple[Annotated[str, Field(pattern=r"^[A-Z]{1,20}$")], ...] = Field(
        (), description="The methods it is about; all where none is named."
    )
    write: bool | None = Field(
        None, description="Whether these requests write. By default all but GET, HEAD and TRACE do."
    )

    @field_validator("path")
    @classmethod
    def _is_pattern(cls, path: str) -> str:
        if not _PATTERN.fullmatch(path) or "**" in path.removesuffix("/**"):
            raise ValueError(
                f"{path!r} is no pattern: slashes with letters, digits and ._~!+,;=:@- between them, * for any text, "
                "and /** at the end for anything below"
            )
        return path

    @model_validator(mode="after")
    def _can_be_reached(self) -> Route:
        if self.priority is Priority.LAST and self.feature is None:
            raise ValueError("a route of priority last is reached where its feature is named: it needs a feature")
        return self

    @property
    def regex(self) -> str:
        """The path as a regular expression without anchors, captures or backslashes, for Python, PCRE and RE2."""
        return _translated(self.path, _escaped, one="[^/]+", some="[^/]*", below="(?:/(?s:.*))?", end="/?")

    def is_reached(self, document: Document, *, write: bool) -> bool:
        """Whether ``document`` has these requests off for the users who are in it."""
        if document.level is Level.NORMAL or not document.off or self.priority is Priority.NEVER:
            return False
        if write and document.writes is Writes.SEND:
            return False
        everything = EVERYTHING in document.off
        kept = everything and self.feature is not None and self.feature in document.keep
        named = self.feature is not None and self.feature in document.off
        if self.priority is Priority.LAST:
            return named
        if self.priority is Priority.FIRST:
            return named or not kept
        return named or (everything and not kept)

    def writes(self, method: str) -> bool:
        """Whether a request of this route by ``method`` writes."""
        return method not in SAFE if self.write is None else self.write


class Routing(BaseModel):
    """See the module's docstring."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    app: App = Field(description="The app whose document decides.")
    identify: tuple[str, ...] = Field(
        (),
        max_length=IDENTIFY_MAX,
        description="Where a request's user is found, tried in this order: `header:NAME`, `cookie:NAME`, "
        "`claim:NAME` (of the bearer token), `address`.",
    )
    cohorts: int = Field(
        0,
        ge=0,
        le=COHORTS_MAX,
        description="For apps that ask for cohorts' files: how many cohorts there are. Then the user's cohort decides "
        "instead of the bucket. 0: the bucket.",
    )
    carried: str | None = Field(
        None,
        pattern=r"^(header|cookie):[A-Za-z0-9_-]{1,64}$",
        description="For nginx: `header:NAME` or `cookie:NAME` in which requests carry their cohort, or their bucket "
        "where `cohorts` is 0.",
    )
    routes: tuple[Route, ...] = Field(max_length=ROUTES_MAX, min_length=1, description="The first that fits decides.")

    @field_validator("identify")
    @classmethod
    def _is_known(cls, identify: tuple[str, ...]) -> tuple[str, ...]:
        for one in identify:
            if not re.fullmatch(_KEY, one):
                raise ValueError(f"{one!r} is none of header:NAME, cookie:NAME, claim:NAME and address")
        return identify

    @field_validator("cohorts")
    @classmethod
    def _is_a_split(cls, cohorts: int) -> int:
        if cohorts == 1:
            raise ValueError("one cohort is no split: 0, or 2 and more")
        return cohorts

    def problems(self) -> list[str]:
        """What nobody can have meant, or will regret."""
        found = []
        catch_all = next((i for i, route in enumerate(self.routes) if route.path == "/**" and not route.methods), None)
        if catch_all is not None:
            for route in self.routes[catch_all + 1 :]:
                found.append(f"{route.path} comes after /** and is never reached: the first route that fits decides")
            before = self.routes[:catch_all]
            if self.routes[catch_all].priority is not Priority.NEVER and all(
                route.priority is not Priority.NEVER for route in before
            ):
                found.append(
                    "/** takes health checks with it, and a load balancer removes servers that shed those: put a route "
                    'of priority "never" before it'
                )
        if not self.identify and self.carried is None:
            found.append("identify is empty: nothing is shed before all users are in it")
        return found


def load_routing(path: Path) -> Routing:
    """The routing in a TOML file. Raises InputError that names the file, the field and what is wrong."""
    return routing_of(read_toml(path, ROUTING_BYTES_MAX, "docs/guides/zombie-servers.md has one."), str(path))


def routing_of(said: dict[str, object], source: str = "the routing") -> Routing:
    """`Routing` from plain values. Raises InputError."""
    try:
        return Routing.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{source}: {where}: {what}" if where else f"{source}: {what}", remedy="docs/guides/zombie-servers.md"
        ) from None


def lua_patterns(route: Route) -> tuple[str, ...]:
    """The path as Lua patterns, one of which fits: Lua's have no choice between two ends."""

    def made(below: str, end: str) -> str:
        return f"^{_translated(route.path, _lua_escaped, one='[^/]+', some='[^/]*', below=below, end=end)}"

    if route.path.endswith("/**"):
        return (made("$", ""), made("/", ""))
    return ("^/$",) if route.path == "/" else (made("", "/?$"),)


def _translated(path: str, escaped: Callable[[str], str], *, one: str, some: str, below: str, end: str) -> str:
    """A pattern in another notation."""
    base = path.removesuffix("/**")
    done = "".join(
        "/" + (one if segment == "*" else some.join(escaped(text) for text in segment.split("*")))
        for segment in base.split("/")[1:]
    )
    if path.endswith("/**"):
        return done + below
    return "/" if path == "/" else done + end


def _escaped(text: str) -> str:
    # A class of one letter, not a backslash: nginx reads backslashes in its own way first.
    return _SPECIAL.sub(lambda found: f"[{found[0]}]" if found[0] not in "-~!" else found[0], text)


def _lua_escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"%{found[0]}", text)
