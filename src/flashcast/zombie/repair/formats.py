"""What a line of each format says, as SQL over a column `text`: fields, time, status, path, query, user.

    s3           S3 server access logs (docs.aws.amazon.com, "Amazon S3 server access log format"). Only what stands
                 before the referrer is read: a user agent may hold anything.
    cloudfront   standard logs v1: tabs, fields named by `#Fields:`, values percent-encoded, times in UTC
    nginx        a `log_format`, by default `combined`; strange bytes are `\\xHH` (escape=default)
    json, csv    what a team exports: a JSON object per line, or a line of names and then values

Times are microseconds since 1970 (BIGINT), so that no zone of any machine takes part.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from flashcast.errors import InputError

if TYPE_CHECKING:
    from flashcast.zombie.repair.rules import LogRules

COMBINED: Final = (
    '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'
)
_S3: Final = (
    r"^\S+ \S+ \[(?P<time>[^\]]+)\] (?P<address>\S+) \S+ \S+ (?P<operation>\S+) \S+ "
    r'(?:"(?P<request>[^"]*)"|-) (?P<status>\d{3}|-)(?: |$)'
)
_S3_FIELDS: Final = ("time", "address", "operation", "request", "status")
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_STRPTIME: Final = "%d/%b/%Y:%H:%M:%S %z"


class Shape(NamedTuple):
    """How a format's lines are read; every text is SQL.

    ``fields``   what is taken from ``text`` once, named ``f``
    ``valid``    whether the line is one of the format
    ``skip``     whether it is no entry, and no fault either: a header, an empty line
    ``field``    the value of a named field, NULL where it is missing, empty or "-"; a Python error where it cannot be
    """

    fields: str
    valid: str
    skip: str
    field: Callable[[str], str]
    at: str
    status: str
    method: str
    path: str
    query: str


def head_of(log: LogRules) -> str | None:
    """How the line begins that names the fields; see `lines.chunks`."""
    return {"cloudfront": "#Fields:", "csv": ""}.get(log.format)


def shape_of(log: LogRules, head: str | None, name: str = "log") -> Shape:
    """The shape of a log's lines. Raises InputError where it lacks what the rules ask for."""
    made = {"s3": _s3, "cloudfront": _cloudfront, "nginx": _nginx, "json": _json, "csv": _csv}[log.format]
    try:
        return made(log, head)
    except LookupError as error:
        raise InputError(f"logs.{name}: {error.args[0]}", remedy="docs/reference/zombie-repair.md") from None


def format_fault(log: LogRules) -> str:
    """What is wrong with a log's rules that can be told without its files; empty for nothing."""
    if log.format in ("cloudfront", "csv"):
        return ""
    try:
        shape = shape_of(log, None)
        for ref in (log.user, log.device, log.version, log.queued_at, log.incident, log.replayed_at):
            if ref is not None:
                value_of(log, shape, ref)
        if log.evidence != "queue" and "NULL" in (shape.at, shape.status):
            return "log_format: needs the time ($time_local, $time_iso8601 or $msec) and $status"
        if log.evidence == "poll" and shape.path == "NULL":
            return "log_format: needs $request, $request_uri or $uri"
    except LookupError as error:
        return str(error.args[0])
    except InputError as error:
        return error.message.partition(": ")[2]
    return ""


def value_of(log: LogRules, shape: Shape, ref: str) -> str:
    """SQL for what a reference names (`query:who`), decoded. Raises LookupError where the format has no such thing."""
    kind, _, name = ref.partition(":")
    decodings = (2 if log.format == "cloudfront" else 1) if log.decodings is None else log.decodings
    if kind == "query":
        return _decoded(_parameter(shape.query, name), decodings)
    if kind == "field":
        found = shape.field(name)
        return _decoded(found, decodings) if log.format == "cloudfront" else found
    if kind == "address":
        named = {"s3": "address", "cloudfront": "c-ip", "nginx": "remote_addr"}.get(log.format)
    elif kind == "header":
        named = {"cloudfront": f"cs({name})", "nginx": f"http_{name.lower().replace('-', '_')}"}.get(log.format)
    elif log.format == "cloudfront":
        return _decoded(_cookie(shape.field("cs(Cookie)"), name), decodings)
    else:
        named = f"cookie_{name}" if log.format == "nginx" else None
    if named is None:
        raise LookupError(f"{ref} does not stand in logs of format {log.format}; name it as field:NAME")
    return shape.field(named)


def literal(text: str) -> str:
    """Text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def microseconds_of(text: str) -> str:
    """SQL: microseconds of Unix seconds or ISO 8601; NULL for anything else. Without a zone it is UTC.

    Devices send such times, so one that is too large to be a time is none either, and must end nothing.
    """
    number = f"try_cast(round(try_cast({text} AS DECIMAL(20,6)) * 1000000) AS BIGINT)"
    return f"coalesce({number}, epoch_us(try_cast({text} AS TIMESTAMPTZ)))"


def _s3(log: LogRules, head: str | None) -> Shape:
    def field(name: str) -> str:
        if name not in _S3_FIELDS:
            raise LookupError(f"field:{name}: of an S3 log these are read: {', '.join(_S3_FIELDS)}")
        return f"nullif(f.{_name(name)}, '-')"

    # Named groups are for people; DuckDB takes the names beside.
    fields = f"regexp_extract(text, {literal(re.sub(r'[?]P<[a-z]+>', '', _S3))}, {_names(_S3_FIELDS)})"
    return _of_request(
        fields, "f.status <> ''", field, at=_common_time("f.time"), request="f.request", status="f.status"
    )


def _nginx(log: LogRules, head: str | None) -> Shape:
    pattern, names = _nginx_pattern(log.log_format or COMBINED)

    def field(name: str) -> str:
        if name not in names:
            raise LookupError(f"log_format: has no ${name}")
        return _unescaped(f"nullif(f.{_name(name)}, '-')")

    at = "NULL"
    if "msec" in names:
        at = microseconds_of("f.msec")
    elif "time_iso8601" in names:
        at = "epoch_us(try_cast(f.time_iso8601 AS TIMESTAMPTZ))"
    elif "time_local" in names:
        at = _common_time("f.time_local")
    status = "f.status" if "status" in names else "NULL"
    fields = f"regexp_extract(text, {literal(pattern)}, {_names(names)})"
    # A line that does not fit gives empty texts for all; one that fits cannot, as it has a first character.
    valid = f"regexp_matches(text, {literal(pattern)})"
    if "request" in names:
        return _of_request(fields, valid, field, at=at, request="f.request", status=status)
    method = "f.request_method" if "request_method" in names else "NULL"
    if "request_uri" in names:
        path, query = _cut("f.request_uri")
    else:
        path = "f.uri" if "uri" in names else "NULL"
        query = next((f"f.{name}" for name in ("args", "query_string") if name in names), "NULL")
    return Shape(fields, valid, "text = ''", field, at, _number(status), method, path, query)


def _nginx_pattern(log_format: str) -> tuple[str, tuple[str, ...]]:
    """A regular expression (RE2) for a `log_format`, and its groups' names."""
    text = re.sub(r"'\s*\n?\s*'", "", log_format.strip().strip("';"))
    pattern, names, at = "^", list[str](), 0
    for found in _VARIABLE.finditer(text):
        pattern += re.escape(text[at : found.start()])
        at, name = found.end(), found[1] or found[2]
        after = text[at : at + 1]
        if after == "$":
            raise LookupError(f"log_format: nothing stands between ${name} and the next variable")
        # Within quotes a quote is escaped, as is a backslash.
        group = r"(?:[^\"\\]|\\.)*" if after == '"' else f"[^{re.escape(after)}]*" if after else ".*"
        twice = name in names
        pattern += f"(?:{group})" if twice else f"({group})"
        if not twice:
            names.append(name)
    if not names:
        raise LookupError("log_format: has no variable")
    return f"{pattern}{re.escape(text[at:])}$", tuple(names)


def _of_request(fields: str, valid: str, field: Callable[[str], str], *, at: str, request: str, status: str) -> Shape:
    """A format whose lines have a request line: ``GET /path?query HTTP/1.1``."""
    path, query = _cut(f"split_part({request}, ' ', 2)")
    return Shape(fields, valid, "text = ''", field, at, _number(status), f"split_part({request}, ' ', 1)", path, query)


def _cloudfront(log: LogRules, head: str | None) -> Shape:
    if head is None:
        raise LookupError("a file has no line #Fields: within its first ten, so this is no CloudFront log")
    names = head.split()

    def field(name: str) -> str:
        if name not in names:
            raise LookupError(f"field:{name}: the log has no such field; it has {', '.join(names)}")
        return f"nullif(f[{names.index(name) + 1}], '-')"

    at = f"epoch_us(try_cast({field('date')} || ' ' || {field('time')} || '+00' AS TIMESTAMPTZ))"
    return Shape(
        "string_split(text, chr(9))", f"len(f) = {len(names)}", "(text = '' OR text[1] = '#')", field, at,
        _number(field("sc-status")), field("cs-method"), f"try(url_decode({field('cs-uri-stem')}))",
        field("cs-uri-query"),
    )  # fmt: skip


def _json(log: LogRules, head: str | None) -> Shape:
    def field(name: str) -> str:
        path = literal(f'$."{name}"')
        return f"nullif(nullif(json_extract_string(f, {path}), ''), '-')"

    return _of_columns(log, "try_cast(text AS JSON)", "json_type(f) = 'OBJECT'", "trim(text) = ''", field)


def _csv(log: LogRules, head: str | None) -> Shape:
    names = [name.strip().strip('"').lstrip("\ufeff") for name in (head or "").split(",")]

    def field(name: str) -> str:
        if name not in names:
            raise LookupError(f"field:{name}: the file has no such column")
        value = f"substr(f[{names.index(name) + 1}], 2)"
        quoted = f"""replace(substr({value}, 2, length({value}) - 2), '""', '"')"""
        return f"""nullif(nullif(CASE WHEN {value}[1] = '"' THEN {quoted} ELSE {value} END, ''), '-')"""

    # Each value with the comma before it: what is left over was no CSV.
    values = """regexp_extract_all(',' || text, ',(?:"(?:[^"]|"")*"|[^,"]*)')"""
    valid = f"len(f) = {len(names)} AND length(array_to_string(f, '')) = length(text) + 1"
    return _of_columns(log, values, valid, "(text = '' OR number = 1)", field)


def _of_columns(log: LogRules, fields: str, valid: str, skip: str, field: Callable[[str], str]) -> Shape:
    def optional(name: str) -> str:
        try:
            return field(name)
        except LookupError:
            if log.evidence == "poll" or (log.evidence == "shed" and name != log.columns.uri):
                raise
            return "NULL"

    columns = log.columns
    path, query = _cut(optional(columns.uri))
    method = "'GET'"
    if log.evidence == "poll":
        method = f"coalesce({_maybe(field, columns.method)}, 'GET')"
    at = microseconds_of(optional(columns.time))
    return Shape(fields, valid, skip, field, at, _number(optional(columns.status)), method, path, query)


def _maybe(field: Callable[[str], str], name: str) -> str:
    try:
        return field(name)
    except LookupError:
        return "NULL"


def _common_time(text: str) -> str:
    return f"epoch_us(try_strptime({text}, '{_STRPTIME}'))"


def _number(text: str) -> str:
    return f"try_cast({text} AS SMALLINT)"


def _cut(uri: str) -> tuple[str, str]:
    """SQL for path and query of a URI."""
    return f"split_part({uri}, '?', 1)", f"nullif(regexp_extract({uri}, '[?](.*)$', 1), '')"


def _parameter(query: str, name: str) -> str:
    pattern = f"&{re.escape(name)}=([^&]*)"
    return f"nullif(regexp_extract('&' || {query}, {literal(pattern)}, 1), '')"


def _cookie(cookies: str, name: str) -> str:
    # CloudFront writes the blank between two cookies as %20.
    pattern = f";(?: |%20|%2520)*{re.escape(name)}=([^;]*)"
    return f"nullif(regexp_extract(';' || {cookies}, {literal(pattern)}, 1), '')"


def _decoded(value: str, times: int) -> str:
    """Percent-decoded; NULL where that is no UTF-8. A plus sign is a plus sign."""
    for _ in range(times):
        value = f"try(url_decode({value}))"
    return value


def _unescaped(value: str) -> str:
    """nginx's `\\xHH`, byte by byte."""
    percent = f"regexp_replace(replace({value}, '%', '%25'), '\\\\x([0-9A-Fa-f]{{2}})', '%\\1', 'g')"
    return f"CASE WHEN contains({value}, '\\x') THEN try(url_decode({percent})) ELSE {value} END"


def _name(name: str) -> str:
    return '"' + name + '"'


def _names(names: tuple[str, ...]) -> str:
    return "[" + ", ".join(literal(name) for name in names) + "]"
