"""The report as one HTML file that needs nothing else: no script, no font, no address.

It can be mailed, kept for years and opened on a train. Its content security policy forbids it to load
anything, and whatever came from outside (names, reasons, paths) is escaped where it enters the markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any, Final

from flashcast.outcomes import Outcome, Reason
from flashcast.report import svg, workers
from flashcast.report.charts import Charts
from flashcast.report.meanings import MEANINGS, OUTCOME_MEANINGS, advice
from flashcast.report.text import ACCEPTANCE, share

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_page(document: Mapping[str, Any], charts: Charts) -> str:
    """The whole page for a report (`summary.report_document`) and its series, as HTML text."""
    css = files("flashcast.report").joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(
        (
            _header(document),
            _notes(document),
            _tiles(document),
            _outcomes(document),
            _throughput(document, charts),
            _latency(document, charts),
            _reasons(document),
            _workers(document),
            _details(document),
            _simulator(document),
        )
    )
    title = escape(f"{document['name']} · {document['launch']}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
<main>
{body}
<footer>{escape(ACCEPTANCE)} Whether and when a phone shows it is between the provider and the phone.</footer>
</main>
</body>
</html>
"""


def _header(document: Mapping[str, Any]) -> str:
    verdict = ("good", "✓ The books balance") if document["balanced"] else ("bad", "✗ The books do not balance")
    facts = f"{document['launch']} · to {document['destination']} · GO at {document['started_at']}"
    return (
        f'<header><div><h1>{escape(document["name"])}</h1><p class="facts">{escape(facts)}</p></div>'
        f'<p class="verdict {verdict[0]}">{verdict[1]}</p></header>'
    )


def _notes(document: Mapping[str, Any]) -> str:
    notes = []
    if document["imbalances"]:
        notes.append(_note("bad", "Out of balance", document["imbalances"]))
    warnings = list(document["warnings"])
    if document["aborted"]:
        warnings.insert(0, f"Aborted by the operator; {document['overshoot']:,} requests were on the wire by then.")
    if warnings:
        notes.append(_note("warn", "Mind", warnings))
    return "\n".join(notes)


def _tiles(document: Mapping[str, Any]) -> str:
    accepted, devices = document["outcomes"]["accepted"], document["devices"]
    latency = document["reply_latency_ms"]
    tiles = [
        ("accepted", f"{accepted:,}", "", f"{escape(share(accepted, devices)) or 'none'} of {devices:,}"),
        ("GO to last reply", _number(document["go_to_last_reply_s"], ",.2f"), "s", _first_request(document)),
        ("accepted per second", _number(document["accepted_per_s"], ",.0f"), "", "over the whole launch"),
        (
            "median reply",
            _number(latency["p50"], ",.1f"),
            "ms",
            f"99 % within {_number(latency['p99'], ',.1f')} ms",
        ),
        (
            "sender CPU",
            _number(document["sender_cpu_us_per_notification"], ",.2f"),
            "µs each",
            f"peak memory {_number(document['peak_rss_mib'], ',.0f')} MiB",
        ),
    ]
    cells = (
        f'<div class="tile"><dt>{name}</dt><dd>{value} <small>{unit}</small></dd><dd class="more">{note}</dd></div>'
        for name, value, unit, note in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _first_request(document: Mapping[str, Any]) -> str:
    return f"first request {_number(document['go_to_first_request_ms'], ',.1f')} ms"


def _outcomes(document: Mapping[str, Any]) -> str:
    providers = document["providers"] if len(document["providers"]) > 1 else {}
    devices = document["devices"]
    head = _row("th", "outcome", "", *("#" + name for name in ("devices", "share", *providers)))
    rows = []
    for name, count in document["outcomes"].items():
        numbers = (
            f"{count:,}",
            escape(share(count, devices)),
            *(f"{p['outcomes'][name]:,}" for p in providers.values()),
        )
        cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
        rows.append(
            f'<tr class="{"some" if count else "none"}">'
            f'<th scope="row"><span class="dot {name}"></span>{name}</th>'
            f'<td class="soft wordy">{OUTCOME_MEANINGS[Outcome[name.upper()]]}</td>{cells}</tr>'
        )
    totals = (f"{devices:,}", "", *(f"{p['devices']:,}" for p in providers.values()))
    foot = (
        '<tr><th scope="row">devices</th><td class="wordy"></td>'
        + "".join(f'<td class="number">{t}</td>' for t in totals)
        + "</tr>"
    )
    return f"<section><h2>Outcomes</h2>{svg.share_bar(document['outcomes'])}{_table(head, rows, foot)}</section>"


def _throughput(document: Mapping[str, Any], charts: Charts) -> str:
    names = [provider.value for provider in charts.accepted]
    legend = "".join(f'<span><span class="dot {name}"></span>{name}</span>' for name in names)
    return (
        f"<section><h2>Throughput<small>in steps of {charts.bin_ms:,} ms since GO</small></h2>"
        f'<div class="legend">{legend}</div><div class="wide">{svg.throughput(charts)}</div></section>'
    )


def _latency(document: Mapping[str, Any], charts: Charts) -> str:
    latency = document["reply_latency_ms"]
    marks = {name: latency[name] for name in ("p50", "p95", "p99")}
    return (
        "<section><h2>Reply latency<small>from a request to its reply, logarithmic</small></h2>"
        f'<div class="wide">{svg.latency_distribution(charts, marks)}</div></section>'
    )


def _reasons(document: Mapping[str, Any]) -> str:
    if not document["reasons"]:
        return ""
    rows = []
    for name, count in document["reasons"].items():
        reason = Reason(name)
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td class="soft">{escape(MEANINGS[reason])}</td>'
            f'<td class="soft">{escape(advice(reason))}</td><td class="number">{count:,}</td>'
            f'<td class="number">{escape(share(count, document["devices"]))}</td></tr>'
        )
    prune = f"<small>{document['prune']:,} devices are gone: prune.csv</small>" if document["prune"] else ""
    head = _row("th", "reason", "what it means", "what to do", "#devices", "#share")
    return f"<section><h2>Reasons{prune}</h2>{_table(head, rows)}</section>"


def _workers(document: Mapping[str, Any]) -> str:
    events = "".join(f"<li>{escape(event)}</li>" for event in workers.events(document))
    told = f'<ul class="events">{events}</ul>' if events else ""
    if not workers.is_fleet(document):
        return f"<section><h2>What happened</h2>{told}</section>" if told else ""
    rows = []
    for worker in document["workers"]:
        cells = "".join(f'<td class="number">{escape(cell)}</td>' for cell in workers.cells(worker))
        name, host = escape(worker["worker"]), escape(worker["host"])
        rows.append(f'<tr><th scope="row">{name}</th><td class="soft">{host}</td>{cells}</tr>')
    head = _row("th", "worker", "host", *(f"#{name}" for name in workers.COLUMNS))
    spread = f"<small>{escape(workers.spread(document))}</small>"
    return f"<section><h2>Workers{spread}</h2>{_table(head, rows)}{told}</section>"


def _details(document: Mapping[str, Any]) -> str:
    latency = document["reply_latency_ms"]
    pairs = [
        ("95 of 100 replies within", _number(latency["p95"], ",.1f", " ms")),
        ("999 of 1,000 replies within", _number(latency["p99.9"], ",.1f", " ms")),
        ("sealing", _number(document["seal_s"], ",.2f", " s")),
        ("arming", _number(document["arm_s"], ",.2f", " s")),
        ("window", _number(document["window_s"], ",g", " s")),
        ("policy for unknown outcomes", document["unknown_policy"]),
        *((f"connections to {name}", _number(p["connections"], ",d")) for name, p in document["providers"].items()),
        ("snapshot", document["snapshot"][:16]),
    ]
    return f"<section><h2>Details</h2>{_pairs(pairs)}</section>"


def _simulator(document: Mapping[str, Any]) -> str:
    ledger = document["simulator"]
    if ledger is None:
        return ""
    pairs = [
        ("requests received", f"{ledger['received']:,}"),
        ("distinct devices", f"{ledger['distinct']:,}"),
        ("duplicates", f"{ledger['duplicates']:,}"),
        ("malformed requests", f"{ledger['malformed']:,}"),
        ("accepted here, not taken there", f"{ledger['accepted_not_taken']:,}"),
        ("not accepted here, taken there", f"{ledger['settled_but_taken']:,}"),
        ("unknown here, taken there", f"{ledger['unknown_taken']:,}"),
        ("unknown here, not taken there", f"{ledger['unknown_not_taken']:,}"),
    ]
    title = "<h2>The simulator's ledger<small>what the other side counted</small></h2>"
    return f"<section>{title}{_pairs(pairs)}</section>"


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="pairs">{cells}</dl>'


def _table(head: str, rows: Iterable[str], foot: str = "") -> str:
    body = f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody><tfoot>{foot}</tfoot>"
    return f'<div class="wide"><table>{body}</table></div>'


def _row(tag: str, *cells: str) -> str:
    """A head row; a cell that begins with # is a column of numbers, one without a name a column of words."""
    kinds = {"#": "number", "": "wordy"}
    made = (
        f'<{tag} scope="col" class="{kinds.get(cell[:1], "word")}">{escape(cell.removeprefix("#"))}</{tag}>'
        for cell in cells
    )
    return f"<tr>{''.join(made)}</tr>"


def _note(kind: str, title: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="note {kind}" role="note"><strong>{title}</strong><ul>{items}</ul></div>'


def _number(value: float | None, spec: str, unit: str = "") -> str:
    return "—" if value is None else format(value, spec) + unit
