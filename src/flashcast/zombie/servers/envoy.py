"""Envoy: routing and a document as it is now, as a Lua HTTP filter.

What Envoy has built in does not do it: runtime fractions (`runtime_fraction`, the fault filter) draw anew for each
request or hash what they like, so a user is in it now and out of it the next moment; header matches (`range_match`)
would be exact, and need somebody who writes the bucket into a header first. The Lua filter is in every Envoy, has
LuaJIT with bit operations, and SHA-256 in that is 60 lines: so it decides exactly as clients do, for old apps as well,
with nothing else to run. It costs some microseconds per request whose feature is off, and nothing while nothing is.

Envoy logs an error in the script and serves the request. The script ends with its document: it looks at the clock.

Two ways to bring it in. `http_filter` is the filter as it stands in a list of `http_filters`, for control planes that
deliver listeners, and for Istio's EnvoyFilter. `discovery_file` is a file that Envoy watches (extension discovery from
a file system): it is replaced for each document, and Envoy takes it up within a second without a restart;
`discovery_filter` is the entry in `http_filters` that names it, written once.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import PurePath
from typing import Final

from flashcast.errors import InputError
from flashcast.zombie.buckets import BUCKETS, cohorts_in
from flashcast.zombie.document import Document
from flashcast.zombie.servers.routing import Route, Routing, lua_patterns
from flashcast.zombie.servers.table import retry_spread, told_body, told_headers

NAME: Final = "flashcast.zombie"
_LUA: Final = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
_EXTENSION: Final = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
_NOTHING: Final = "-- Nothing is off: no function, nothing to call.\n"


def lua_source(document: Document | None, routing: Routing) -> str:
    """The filter's script. Raises InputError where the routing identifies users by what it cannot read (`claim:`)."""
    for one in routing.identify:
        if one.startswith("claim:"):
            raise InputError(
                f"identify: {one}: the script does not read tokens",
                remedy="Let the filter envoy.filters.http.jwt_authn put the claim into a header (claim_to_headers) "
                "before it, and name that: header:NAME.",
            )
    head = f"-- Zombie mode of {routing.app}, for Envoy. Made by `flashcast zombie envoy`: changes are lost.\n"
    if document is None or not _reaches(document, routing):
        return head + _NOTHING
    return head + _described(document) + _table(document, routing) + _script()


def http_filter(document: Document | None, routing: Routing) -> str:
    """YAML: an item of `http_filters`, to stand before the router and after what authenticates, if it needs that."""
    return f"- name: {NAME}\n  typed_config:\n{_indented(_typed_config(document, routing), 4)}"


def discovery_file(document: Document | None, routing: Routing) -> str:
    """YAML: the file that `discovery_filter` names. To be replaced by renaming: Envoy looks for files moved there."""
    version = document.version if document else 0
    return (
        f'version_info: "{version}"\nresources:\n- "@type": {_EXTENSION}\n  name: {NAME}\n  typed_config:\n'
        f"{_indented(_typed_config(document, routing), 4)}"
    )


def discovery_filter(path: PurePath) -> str:
    """YAML: an item of `http_filters` whose script is in the file ``path`` (absolute), taken up when it changes.

    The file must be there when Envoy starts; what Envoy does not like in it later leaves the last one in force.
    """
    if not path.is_absolute():
        raise InputError(f"{path}: Envoy needs an absolute path")
    return f"""\
- name: {NAME}
  config_discovery:
    config_source:
      resource_api_version: V3
      path_config_source:
        path: {json.dumps(str(path))}
        watched_directory:
          path: {json.dumps(str(path.parent))}
    default_config:
      "@type": {_LUA}
      default_source_code:
        inline_string: |
          {_NOTHING.strip()}
    apply_default_config_without_warming: true
    type_urls:
    - {_LUA}
"""


def _typed_config(document: Document | None, routing: Routing) -> str:
    source = _indented(lua_source(document, routing), 4)
    return f'"@type": {_LUA}\ndefault_source_code:\n  inline_string: |\n{source}'


def _reaches(document: Document, routing: Routing) -> bool:
    return document.buckets > 0 and any(
        route.is_reached(document, write=write) for route in routing.routes for write in (False, True)
    )


def _described(document: Document) -> str:
    return (
        f"-- Version {document.version}: {document.level.value}, {document.buckets} of {BUCKETS} buckets, "
        f"until {document.expires_at} (Unix seconds); after that nothing is off.\n"
    )


def _table(document: Document, routing: Routing) -> str:
    wait_s, spread_s = retry_spread(document)
    members = sorted(cohorts_in(document.salt, routing.cohorts, document.buckets))
    everyone = document.buckets == BUCKETS or len(members) == routing.cohorts > 0
    identify = ", ".join(
        f"{{{_text(kind)}, {_text(name.lower() if kind == 'header' else name)}}}"
        for kind, _, name in (one.partition(":") for one in routing.identify)
    )
    lines = [
        "local Z = {",
        f"  expires_at = {document.expires_at}, wait_s = {wait_s}, spread_s = {spread_s},",
        f"  app = {_text(routing.app)}, salt = {_text(document.salt)}, buckets = {document.buckets},",
        f"  of = {routing.cohorts}, cohorts = {{{', '.join(f'[{index}] = true' for index in members)}}},",
        f"  everyone = {_truth(everyone)}, identify = {{{identify}}},",
        "  routes = {",
        *(f"    {_route(route, document)}," for route in routing.routes),
        "  },",
        "}",
    ]
    return "\n".join([*lines, ""])


def _route(route: Route, document: Document) -> str:
    reads = route.is_reached(document, write=route.writes("GET"))
    writes = route.is_reached(document, write=route.writes("POST"))
    said = [
        f"paths = {{{', '.join(_text(pattern) for pattern in lua_patterns(route))}}}",
        f"reads = {_truth(reads)}, writes = {_truth(writes)}",
    ]
    if route.methods:
        said.append(f"methods = {{{', '.join(f'{method} = true' for method in route.methods)}}}")
    if reads or writes:
        feature = route.feature or ""
        headers = ", ".join(
            f"[{_text(name)}] = {_text(value)}" for name, value in told_headers(document, feature).items()
        )
        said += [f"headers = {{{headers}}}", f"body = {_text(told_body(document, feature))}"]
    return f"{{ {', '.join(said)} }}"


def _script() -> str:
    return files("flashcast.zombie.servers").joinpath("filter.lua").read_text(encoding="utf-8")


def _text(value: str) -> str:
    """A Lua string. What comes here is printable ASCII, by the patterns of documents and routing."""
    assert value.isascii()
    assert value.isprintable()
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _indented(text: str, blanks: int) -> str:
    return "".join(f"{' ' * blanks}{line}" if line.strip() else line for line in text.splitlines(keepends=True))
