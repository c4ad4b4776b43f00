"""nginx: routing and a document as it is now, as configuration.

The problem: buckets are SHA-256, and nginx without njs, Lua or Perl has no hash that a map can use. `split_clients` is
MurmurHash2 over text: its shares are right, its members are not those of the clients. What plain nginx can do:

- While everybody is in it, nobody needs to be told from another: paths alone decide, exactly.
- Where requests carry a number, a map compares it. A bucket changes with every incident's salt, so only something that
  follows the document can write it (a gateway, an edge function). A **cohort** does not change for a user: the service
  puts it into a cookie at login, or an app's release sends it as a header, and nginx decides by it as those apps do
  that ask for their cohort's file.
- For requests that carry none, `share_others` sorts by `split_clients`: as many users as the document says, the same
  ones throughout an incident, but others than the clients' buckets would name.

Two parts. The http part is made anew for each document; the server part never changes. Both are to be included. The
configuration ends by itself: what holds until `expires_at` is compared with the clock for each request, so that an
nginx whose configuration nobody renews is open when the document ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from flashcast.errors import InputError
from flashcast.zombie.buckets import BUCKETS, cohorts_in
from flashcast.zombie.document import Document
from flashcast.zombie.servers.routing import ALWAYS_SERVED, SAFE, Route, Routing
from flashcast.zombie.servers.table import retry_spread

RETRY_STEPS_MAX: Final = 20
"""Different values of `Retry-After`: nginx draws one of a list. Twenty over ten minutes are 30 s apart, and clients of
ours add up to half of it at random."""
_NO_FEATURE: Final = "*"
"""Stands for the feature of a route that has none: an empty text would say that the route is not reached."""
_PREFIX: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")


def http_part(
    document: Document | None, routing: Routing, *, share_others: bool = False, prefix: str = "zombie"
) -> str:
    """What belongs into `http { }`: variables that say whether a request is to be shed, and what it is told.

    document      the app's, None for none: then nothing is off
    share_others  sort requests that carry no number by nginx's own hash of ``routing.identify``
    prefix        of the variables' names, where one nginx serves several apps

    Raises InputError where the routing asks for what nginx cannot do.
    """
    _check(routing, share_others=share_others, prefix=prefix)
    lines = list(_parts(document, routing, share_others=share_others)) if document else list(_nothing())
    head = [
        f"# Zombie mode of {routing.app}, for nginx. Made by `flashcast zombie nginx`: changes are lost.",
        f"# {_described(document)}",
    ]
    return "\n".join([*head, *lines, ""]).replace("$zombie_", f"${prefix}_")


def server_part(*, prefix: str = "zombie") -> str:
    """What belongs into `server { }`, before its locations. The same whatever the document says."""
    if not _PREFIX.fullmatch(prefix):
        raise InputError(f"prefix: {prefix!r} is no beginning of a variable's name: a-z, 0-9 and _")
    place = f"/.{prefix.replace('_', '-')}-shed"
    return f"""\
# Zombie mode, for nginx. Made by `flashcast zombie nginx --part server`; the same for every document.
if ($zombie_shed) {{
    rewrite ^ {place} last;
}}
location = {place} {{
    internal;
    default_type application/json;
    add_header Retry-After $zombie_retry_after always;
    add_header Cache-Control no-store always;
    add_header Zombie-Level $zombie_level always;
    add_header Zombie-Version $zombie_version always;
    add_header Zombie-Feature $zombie_feature always;
    return 503 $zombie_body;
}}
""".replace("$zombie_", f"${prefix}_")


def below(limit: int) -> str:
    """A regular expression for the whole numbers 0..limit-1 in decimal, without leading zeros. ``limit`` >= 1."""
    digits = str(limit)
    options = ["0"] if limit > 1 or len(digits) > 1 else []
    if len(digits) > 1:
        options.append(f"[1-9]{_any(0, len(digits) - 2)}")
    for place, digit in enumerate(digits):
        first = 1 if place == 0 else 0
        if int(digit) > first:
            rest = len(digits) - place - 1
            options.append(f"{digits[:place]}[{first}-{int(digit) - 1}]{_any(rest, rest)}")
    return f"(?:{'|'.join(options or ['0'])})"


def _any(least: int, most: int) -> str:
    if most == 0:
        return ""
    return f"[0-9]{{{least},{most}}}" if least != most else f"[0-9]{{{most}}}"


def _check(routing: Routing, *, share_others: bool, prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix):
        raise InputError(f"prefix: {prefix!r} is no beginning of a variable's name: a-z, 0-9 and _")
    if routing.carried:
        _variable(routing.carried)
    if share_others:
        if not routing.identify:
            raise InputError("identify is empty: there is nothing to sort the others by")
        for one in routing.identify:
            _variable(one)


def _variable(named: str) -> str:
    """nginx's variable for ``header:NAME``, ``cookie:NAME`` or ``address``."""
    kind, _, name = named.partition(":")
    if named == "address":
        return "$remote_addr"
    if kind == "header":
        return f"$http_{name.lower().replace('-', '_')}"
    if kind == "cookie" and re.fullmatch(r"[A-Za-z0-9_]+", name):
        return f"$cookie_{name}"
    raise InputError(
        f"{named}: nginx cannot read it",
        remedy="Cookies need a name of letters, digits and _; a token's claims are read by njs, or by the service.",
    )


def _described(document: Document | None) -> str:
    if document is None:
        return "No document is published: nothing is off."
    return (
        f"Version {document.version}: {document.level.value}, {document.buckets} of {BUCKETS} buckets, "
        f"until {document.expires_at} (Unix seconds); after that nothing is off."
    )


def _nothing() -> Iterator[str]:
    yield _constant("$zombie_shed", "0")
    for name in ("level", "version", "feature", "retry_after", "body"):
        yield _constant(f"$zombie_{name}", "")


def _parts(document: Document, routing: Routing, *, share_others: bool) -> Iterator[str]:
    reached = list(_reached(document, routing))
    if not document.buckets or not any(value for _, value in reached):
        yield from _nothing()
        return
    yield "# The feature of a request, where it is off for those who are in it."
    yield _map('"$request_method $uri"', "$zombie_reached", [("default", ""), *reached])
    yield "# Whether the document still holds: the clock in seconds is below its end."
    yield _map("$msec", "$zombie_holds", [("default", "0"), (f"~^{below(document.expires_at)}[.]", "1")])
    yield "# Whether the user is in it."
    yield from _inside(document, routing, share_others=share_others)
    yield _map('"$zombie_holds$zombie_inside$zombie_reached"', "$zombie_shed", [("default", "0"), ("~^11.", "1")])
    yield "# What those are told who are turned away."
    yield _constant("$zombie_level", document.level.value)
    yield _constant("$zombie_version", str(document.version))
    yield _map("$zombie_reached", "$zombie_feature", [("default", "$zombie_reached"), (_NO_FEATURE, "")])
    yield _retry_after(*retry_spread(document))
    said = f'{{"error":"unavailable","level":"{document.level.value}"'
    wait = '"retry_after_s":$zombie_retry_after}\\n'
    yield (
        "map $zombie_feature $zombie_body {\n"
        f'    default \'{said},"feature":"$zombie_feature",{wait}\';\n'
        f"    \"\" '{said},{wait}';\n"
        "}"
    )


def _reached(document: Document, routing: Routing) -> Iterator[tuple[str, str]]:
    """Lines of the map from method and path to feature. nginx takes the first expression that fits, as routing does."""
    yield f"~^{ALWAYS_SERVED} ", ""
    for route in routing.routes:
        reads = _feature(route, document, write=route.writes("GET"))
        writes = _feature(route, document, write=route.writes("POST"))
        if reads == writes:
            yield f"~^{_methods(route.methods)} {route.regex}\\z", reads
            continue
        safe = tuple(sorted(SAFE)) if not route.methods else tuple(m for m in route.methods if m in SAFE)
        other = tuple(m for m in route.methods if m not in SAFE)
        if safe:
            yield f"~^{_methods(safe)} {route.regex}\\z", reads
        if other or not route.methods:
            yield f"~^{_methods(other)} {route.regex}\\z", writes


def _feature(route: Route, document: Document, *, write: bool) -> str:
    return (route.feature or _NO_FEATURE) if route.is_reached(document, write=write) else ""


def _methods(methods: tuple[str, ...]) -> str:
    return f"(?:{'|'.join(methods)})" if methods else "[^ ]+"


def _inside(document: Document, routing: Routing, *, share_others: bool) -> Iterator[str]:
    members = cohorts_in(document.salt, routing.cohorts, document.buckets)
    share = len(members) / routing.cohorts if routing.cohorts else document.buckets / BUCKETS
    if share == 1:
        yield _constant("$zombie_inside", "1")
        return
    if share_others:
        yield from _by_share(document, routing, share)
    others = "$zombie_other" if share_others else "0"
    if routing.carried is None:
        yield _constant("$zombie_inside", others)
        return
    numbers = sorted(members) if routing.cohorts else []
    values = [(str(number), "1") for number in numbers] or [(f"~^{below(document.buckets)}$", "1")]
    yield _map(_variable(routing.carried), "$zombie_inside", [("default", "0"), ("", others), *values])


def _by_share(document: Document, routing: Routing, share: float) -> Iterator[str]:
    """Of requests without a number as many as the document says, by nginx's own hash of the first key that is there."""
    key = ""
    for number, named in reversed(list(enumerate(routing.identify))):
        variable = _variable(named)
        yield _map(variable, f"$zombie_key{number}", [("default", variable), ("", key)])
        key = f"$zombie_key{number}"
    yield f'split_clients "{document.salt}:{key}" $zombie_drawn {{\n    {100 * share:.2f}% 1;\n    * 0;\n}}'
    yield _map(key, "$zombie_other", [("default", "$zombie_drawn"), ("", "0")])


def _retry_after(wait_s: int, spread_s: int) -> str:
    steps = min(RETRY_STEPS_MAX, spread_s + 1)
    values = [wait_s + round(spread_s * (step + 0.5) / steps) for step in range(steps)]
    if steps == 1:
        return _constant("$zombie_retry_after", str(values[0]))
    lines = [f"    {100 / steps:.2f}% {value};" for value in values[:-1]]
    return "\n".join(['split_clients "$request_id" $zombie_retry_after {', *lines, f"    * {values[-1]};", "}"])


def _constant(name: str, value: str) -> str:
    return f'map "" {name} {{\n    default "{value}";\n}}'


def _map(source: str, name: str, entries: list[tuple[str, str]]) -> str:
    lines = [f'    {key if key == "default" else _quoted(key)} "{value}";' for key, value in entries]
    return "\n".join([f"map {source} {name} {{", *lines, "}"])


def _quoted(key: str) -> str:
    return f'"{key}"'
