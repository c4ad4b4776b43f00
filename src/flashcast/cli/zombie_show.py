"""What the commands of zombie mode show, as text and as JSON."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flashcast.cli.zombie_options import moment, share_of

if TYPE_CHECKING:
    from flashcast.zombie.document import Document
    from flashcast.zombie.orders import Act
    from flashcast.zombie.place import Place
    from flashcast.zombie.publish import Publication, Published
    from flashcast.zombie.trace import Replayed


def document_json(document: Document, now: float) -> dict[str, Any]:
    """A document for `--json`."""
    said = document.model_dump(mode="json", exclude_none=True)
    return {**said, "share": document.buckets / 1_000, "in_force": document.not_before <= now < document.expires_at}


def publication_json(done: Publication, target: str, act: Act, note: str) -> dict[str, Any]:
    """What was published, for `--json`."""
    said = document_json(done.document, time.time())
    public = done.public._asdict() if done.public is not None else None
    return said | {
        "target": target, "files": list(done.files), "compared": done.compared, "public": public, "told": act.told,
        "note": note,
    }  # fmt: skip


def status_json(place: Place, found: Published, public: dict[str, Any] | None) -> dict[str, Any]:
    """What is published, for `--json`."""
    told: dict[str, Any] = {"app": place.app, "target": place.target.url, "published": found.document is not None}
    if found.document is not None:
        told["document"] = document_json(found.document, time.time())
    return told | {"version": found.version, "whole": found.is_whole, "public": public}


def status_text(place: Place, found: Published, public: dict[str, Any] | None) -> str:
    """What is published, for people."""
    document, now = found.document, time.time()
    if document is None:
        return f"{place.app}: nothing is published in {place.target.url}; apps work as usual\n"
    lines = [f"{place.app}: {document.level.value}, version {document.version}"]
    if document.buckets:
        named = "everything" if "*" in document.off else ", ".join(document.off)
        kept = f" but {', '.join(document.keep)}" if document.keep else ""
        lines.append(f"  in it     {share_of(document.buckets)}; off: {named}{kept}; writes: {document.writes.value}")
    if now >= document.expires_at:
        lines.append(f"  over      since {moment(document.expires_at)}: apps work as usual")
    else:
        lines.append(f"  until     {moment(document.expires_at)}, unless it is published anew")
    if document.manual is not None:
        held = "decides" if now < document.manual.until else "decided"
        lines.append(f"  by hand   {document.manual.by} {held} until {moment(document.manual.until)}")
    else:
        lines.append("  by hand   no")
    if document.incident:
        lines.append(f"  incident  {document.incident}")
    if document.cohorts:
        whole = "all of this version" if found.is_whole else "not all of this version: publish again"
        lines.append(f"  cohorts   {', '.join(map(str, document.cohorts))}; {whole}")
    if public is not None:
        lines.append(f"  apps see  {public['seen']} (version {public['version']}) at {public['url']}")
        lines += [f"            {advice}" for advice in public["advice"]]
    return "\n".join(lines) + "\n"


def replay_json(found: Replayed) -> dict[str, Any]:
    """A replay, for `--json`."""
    told = found._asdict()
    told["changes"] = [change._asdict() for change in found.changes]
    told["differences"] = [
        {"at": one.at, "recorded": one.recorded._asdict(), "replayed": one.replayed._asdict()}
        for one in found.differences
    ]
    told["state"] = found.state.model_dump(mode="json", exclude_none=True)
    return told | {"same": not found.different if found.compared else None}


def replay_text(found: Replayed) -> str:
    """A replay, for people."""
    by = {None: "", True: ", by the rules of the recording", False: ", by other rules than the recording's"}
    length_s = found.ended_at - found.began_at
    lines = [f"{found.ticks:,} observations in {length_s:,.1f} s{by[found.same_rules]}"]
    for change in found.changes:
        share = f"{change.buckets / 10:g} % in it"
        lines.append(f"  {change.at - found.began_at:+10.1f} s  {change.level:<10}  {share:<12}  {change.text}")
    if not found.changes:
        lines.append("  nothing changes")
    for one in found.differences:
        recorded, now = (f"{part.level} {part.buckets} ({part.why})" for part in (one.recorded, one.replayed))
        lines.append(f"  {one.at - found.began_at:+10.1f} s  differs: {recorded} was recorded, {now} is replayed")
    if not found.compared:
        lines.append("no decisions are recorded to compare with")
    elif found.different:
        lines.append(f"{found.different:,} of {found.compared:,} decisions differ")
    else:
        lines.append(f"all {found.compared:,} decisions are the same")
    return "\n".join(lines) + "\n"
