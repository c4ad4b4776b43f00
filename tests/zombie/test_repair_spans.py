"""What each log tells of a user, line by line: formats, edges, clocks, queues, and what is no evidence."""

from __future__ import annotations

import csv
import gzip
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from repair_data import cloudfront_line, jsonl, nginx_line, s3_line
from zombie_data import KEY, NOW, OTHER, TRUSTED, document, normal, sealed, zombie

from flashcast.clock import FixedClock
from flashcast.errors import InputError
from flashcast.zombie.buckets import bucket, cohorts_in
from flashcast.zombie.document import Document
from flashcast.zombie.publish import publish
from flashcast.zombie.repair.history import read_history, timeline
from flashcast.zombie.repair.rules import repair_rules_of
from flashcast.zombie.repair.spans import Found, find_spans
from flashcast.zombie.targets import StoreTarget

POLLED_AGAIN_S = 60 + 30 + 30
NORMAL = document(normal(incident=""), version=1, now=NOW - 600)
ZOMBIE = document(zombie(), version=2, now=NOW)
OVER = document(normal(incident=""), version=3, now=NOW + 600)
DAY = [NORMAL, ZOMBIE, OVER]


def spans(
    tmp_path: Path, log: dict[str, Any], text: str, documents: list[Document] = DAY, bad: float = 0.0, **rules: Any
) -> tuple[Found, list[tuple[Any, ...]]]:
    """Spans of one log as (user, from, until, level, polls + sheds + queued), seconds from NOW."""
    path = tmp_path / "access.log"
    path.write_text(text, encoding="utf-8", newline="")
    said = repair_rules_of({"app": "shop", "spans": {"cache_s": 0}, "logs": {"web": log}} | rules)
    out = tmp_path / "spans.csv"
    found = find_spans(said, {"web": [str(path)]}, timeline(documents), out, bad_share_max=bad)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def at(text: str) -> float:
        return datetime.fromisoformat(text).timestamp() - NOW

    return found, [
        (row["user"], at(row["from"]), at(row["until"]), row["level"],
         int(row["polls"]) + int(row["sheds"]) + int(row["queued"]))
        for row in rows
    ]  # fmt: skip


WEB = {"format": "nginx", "user": "query:who"}


def test_a_poll_counts_until_the_next_or_until_an_open_app_would_have_polled(tmp_path: Path) -> None:
    text = "".join(nginx_line(NOW + at, "u") for at in (10, 80, 150, 400))
    _, found = spans(tmp_path, WEB, text)
    assert found == [("u", 10, 150 + POLLED_AGAIN_S, "zombie", 3), ("u", 400, 400 + POLLED_AGAIN_S, "zombie", 1)]


def test_a_poll_that_brings_another_document_ends_it_and_so_does_the_documents_end(tmp_path: Path) -> None:
    short = document(zombie(), version=2, now=NOW, lasts_s=100)
    text = nginx_line(NOW + 590, "a") + nginx_line(NOW + 601, "a")
    assert spans(tmp_path, WEB, text)[1] == [("a", 590, 601, "zombie", 1)]
    assert spans(tmp_path, WEB, nginx_line(NOW + 99, "b"), [short])[1] == [("b", 99, 100, "zombie", 1)]
    assert spans(tmp_path, WEB, nginx_line(NOW + 100, "b"), [short])[1] == []
    assert spans(tmp_path, WEB, nginx_line(NOW, "c") + nginx_line(NOW - 1, "d"))[1] == [
        ("c", 0, POLLED_AGAIN_S, "zombie", 1)
    ]


def test_the_same_line_twice_and_in_any_order_is_one(tmp_path: Path) -> None:
    lines = [nginx_line(NOW + at, "u") for at in (10, 80)]
    once = spans(tmp_path, WEB, "".join(lines))[1]
    assert spans(tmp_path, WEB, "".join([*reversed(lines), *lines, lines[0]]))[1] == once


def test_while_caches_may_have_the_document_before_either_counts(tmp_path: Path) -> None:
    text = nginx_line(NOW + 10, "a") + nginx_line(NOW + 615, "b") + nginx_line(NOW + 620, "c")
    _, found = spans(tmp_path, WEB, text, spans={"cache_s": 20})
    assert [(row[0], row[1]) for row in found] == [("a", 10), ("b", 615)]


def test_only_the_buckets_that_were_in_it_are_found(tmp_path: Path) -> None:
    some = document(zombie(buckets=100), version=2, now=NOW)
    users = [f"user-{n}" for n in range(300)]
    text = "".join(nginx_line(NOW + 5, user) for user in users)
    _, found = spans(tmp_path, WEB, text, [some])
    assert {row[0] for row in found} == {user for user in users if bucket("s1", user) < 100}


def test_a_cohorts_file_tells_by_itself_and_a_split_that_is_not_published_tells_nothing(tmp_path: Path) -> None:
    split = document(zombie(buckets=250, cohorts=(8,)), version=2, now=NOW)
    text = "".join(nginx_line(NOW + 5, f"u{n}", file=f"shop.{n}-of-8.json") for n in range(8))
    text += "".join(nginx_line(NOW + 5, f"v{n}", file=f"shop.{n}-of-4.json") for n in range(4))
    _, found = spans(tmp_path, WEB, text, [split])
    assert {row[0] for row in found} == {f"u{n}" for n in cohorts_in("s1", 8, 250)}


def test_devices_of_one_user_do_not_end_each_others_time(tmp_path: Path) -> None:
    log = {**WEB, "device": "query:d"}
    text = nginx_line(NOW + 590, "u&d=1") + nginx_line(NOW + 601, "u&d=2")
    assert spans(tmp_path, log, text)[1] == [("u", 590, 590 + POLLED_AGAIN_S, "zombie", 1)]


@pytest.mark.parametrize("line", [s3_line, cloudfront_line, nginx_line])
def test_strange_ids_agents_and_addresses_come_through_every_format(tmp_path: Path, line: Any) -> None:
    form = {s3_line: "s3", cloudfront_line: "cloudfront", nginx_line: "nginx"}[line]
    head = (
        "#Version: 1.0\n#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status "
        "cs(Referer) cs(User-Agent) cs-uri-query cs(Cookie)\n"
    )
    text = head * (form == "cloudfront")
    text += line(NOW + 5, "a%20b%26c%3D%2541%2B", agent='say "x" \\ y') + line(NOW + 5, "-") + line(NOW + 5, "")
    found, rows = spans(tmp_path, {"format": form, "user": "query:who"}, text)
    assert rows == [("a b&c=%41+", 5, 5 + POLLED_AGAIN_S, "zombie", 1)]
    assert found.logs[0].nobody == 2 and found.logs[0].bad == 0


def test_a_log_of_cloudfront_that_encodes_only_once_is_read_as_well(tmp_path: Path) -> None:
    fields = "#Fields: date time cs-method cs-uri-stem sc-status cs-uri-query cs(Cookie)\n"
    when = f"{datetime.fromtimestamp(NOW + 5, UTC):%Y-%m-%d\t%H:%M:%S}"
    text = f"{fields}{when}\tGET\t/shop.json\t200\twho=a%20b%26c\tother=1;%20uid=J%C3%B6rg\n"
    for user, name in (("query:who", "a b&c"), ("cookie:uid", "Jörg")):
        assert spans(tmp_path, {"format": "cloudfront", "user": user}, text)[1][0][0] == name
    with pytest.raises(InputError, match="the log has no such field"):
        spans(tmp_path, {"format": "cloudfront", "user": "field:x-nothing"}, text)
    with pytest.raises(InputError, match="this is no CloudFront log"):
        spans(tmp_path, {"format": "cloudfront", "user": "query:who"}, text.partition("\n")[2])


def test_times_of_nginx_are_read_with_their_zone_and_a_wrong_clock_is_put_right(tmp_path: Path) -> None:
    far = timezone(-timedelta(hours=9, minutes=30))
    assert spans(tmp_path, WEB, nginx_line(NOW + 7, "u", zone=far))[1][0][1] == 7
    assert spans(tmp_path, {**WEB, "offset_s": -3.5}, nginx_line(NOW + 7, "u"))[1][0][1] == 3.5


def test_a_log_format_of_ones_own_is_read(tmp_path: Path) -> None:
    own = "'$msec|$request_method|$request_uri|$status|\"$http_x_user\"|$cookie_uid'"
    text = f'{NOW + 5}.250|GET|/z/shop.json?x=1|304|"J\\xC3\\xB6rg"|c1\n{NOW + 5}.250|GET|/z/shop.json|304|"-"|-\n'
    for user, name in (("header:x-user", "Jörg"), ("cookie:uid", "c1"), ("field:http_x_user", "Jörg")):
        found, rows = spans(tmp_path, {"format": "nginx", "user": user, "log_format": own}, text)
        assert rows == [(name, 5.25, 5.25 + POLLED_AGAIN_S, "zombie", 1)]
        assert found.logs[0].nobody == 1


def test_lines_that_are_no_evidence_are_counted_for_what_they_are(tmp_path: Path) -> None:
    other = [nginx_line(NOW + 5, "u", file="other.json"), nginx_line(NOW + 5, "u", status="503")]
    other += [nginx_line(NOW + 5, "u").replace("GET", "HEAD"), nginx_line(NOW + 5, "u", file="myshop.json")]
    text = "".join(other) + nginx_line(NOW - 10**6, "u") + "\r\n" + "garbage of somebody\n" + nginx_line(NOW + 5, "")
    found, rows = spans(tmp_path, WEB, text, bad=0.5)
    log = found.logs[0]
    assert rows == []
    assert (log.other, log.outside, log.skipped, log.bad, log.nobody) == (4, 1, 1, 1, 1)
    assert log.bad_at == [f"{tmp_path / 'access.log'}:7"]


def test_too_many_bad_lines_end_it_and_tell_where_but_not_what(tmp_path: Path) -> None:
    text = nginx_line(NOW + 5, "u") * 5 + "the id of Ada\n"
    with pytest.raises(InputError, match=r"1 of 6 lines are no lines of format nginx: .*access.log:6\n") as error:
        spans(tmp_path, WEB, text, bad=0.1)
    assert "Ada" not in str(error.value)
    assert not (tmp_path / "spans.csv").exists()
    assert spans(tmp_path, WEB, text, bad=0.2)[0].logs[0].bad == 1


def test_bytes_that_are_no_text_and_a_last_line_without_end_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"\xff\xfe\x00\n") + gzip.compress(nginx_line(NOW + 5, "u").strip().encode()))
    rules = repair_rules_of({"app": "shop", "logs": {"web": WEB}})
    found = find_spans(rules, {"web": [str(path)]}, timeline(DAY), tmp_path / "s.csv", bad_share_max=0.5)
    assert (found.spans, found.logs[0].bad, found.logs[0].lines) == (1, 1, 2)


SHED = {
    "format": "nginx", "evidence": "shed", "user": "header:x-user", "version": "field:sent_http_zombie_version",
    "log_format": '[$time_local] "$request" $status "$http_x_user" $sent_http_zombie_version',
}  # fmt: skip


def test_who_was_turned_away_was_in_it_for_as_long_as_they_were_told_to_wait(tmp_path: Path) -> None:
    def line(at: int, status: int, version: str) -> str:
        when = f"{datetime.fromtimestamp(NOW + at, UTC):%d/%b/%Y:%H:%M:%S} +0000"
        return f'[{when}] "GET /api/feed HTTP/1.1" {status} "u" {version}\n'

    found, rows = spans(
        tmp_path, SHED, line(5, 503, "2") + line(30, 503, "2") + line(99, 200, "-") + line(99, 503, "-")
    )
    assert rows == [("u", 5, 30 + 45, "zombie", 2)]
    assert found.logs[0].other == 2
    assert spans(tmp_path, SHED, line(5, 503, "9"))[0].unmatched == 1


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_write_that_waited_tells_that_its_user_was_in_it(tmp_path: Path, form: str) -> None:
    log = {
        "format": form, "evidence": "queue", "user": "field:user", "queued_at": "field:queued",
        "incident": "field:incident", "replayed_at": "field:done",
    }  # fmt: skip
    rows: list[dict[str, object]] = [
        {"user": 'a, "b"', "queued": NOW + 30, "incident": "inc-1", "done": NOW + 50},
        {"user": "c", "queued": "2027-01-15T09:01:00+01:00", "incident": "inc-1", "done": NOW + 5_000},
        {"user": "early clock", "queued": NOW - 200, "incident": "inc-1", "done": NOW + 5_000},
        {"user": "other incident", "queued": NOW + 30, "incident": "inc-9", "done": NOW + 5_000},
        {"user": "held by a server", "queued": NOW + 30, "incident": "", "done": NOW + 5_000},
    ]
    path = tmp_path / "rows"
    if form == "json":
        jsonl(path, rows)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    found, seen = spans(tmp_path, log, path.read_text())
    assert seen == [
        ('a, "b"', 30, 50, "zombie", 1),
        ("c", 60, 60 + POLLED_AGAIN_S, "zombie", 1),
        ("early clock", 0, POLLED_AGAIN_S, "zombie", 1),
    ]
    assert found.unmatched == 1 and found.logs[0].other == 1


MADE_UP = [
    "99999999999999",
    "1e13",
    "-99999999999999",
    "9223372036854",
    "infinity",
    "nan",
    "294246-12-31T00:00:00Z",
    "",
]


@pytest.mark.parametrize("key", ["queued", "done"])
def test_a_time_that_a_device_made_up_keeps_nobody_else_from_what_is_theirs(tmp_path: Path, key: str) -> None:
    log = {
        "format": "json", "evidence": "queue", "user": "field:user", "queued_at": "field:queued",
        "incident": "field:incident", "replayed_at": "field:done",
    }  # fmt: skip
    honest = {"user": "u", "queued": NOW + 30, "incident": "inc-1", "done": NOW + 50}
    jsonl(tmp_path / "rows", [honest, *(honest | {"user": f"v{sent}", key: sent} for sent in MADE_UP)])
    _, rows = spans(tmp_path, log, (tmp_path / "rows").read_text(), bad=1.0)
    assert ("u", 30, 50, "zombie", 1) in rows


def test_a_line_at_the_end_of_time_is_outside_or_bad_whatever_is_added(tmp_path: Path) -> None:
    log = {"format": "json", "user": "field:user", "offset_s": 86_400.0}
    jsonl(tmp_path / "rows", [{"user": "u", "time": at, "status": 200, "uri": "/shop.json"} for at in MADE_UP])
    found, rows = spans(tmp_path, log, (tmp_path / "rows").read_text(), bad=1.0)
    assert rows == [] and found.logs[0].bad + found.logs[0].outside == len(MADE_UP)


def test_no_file_that_is_read_is_written_over(tmp_path: Path) -> None:
    log, users = tmp_path / "log.csv", tmp_path / "users.csv"
    log.write_text(nginx_line(NOW + 5, "u"))
    users.write_text("user\nu\n")
    (tmp_path / "folder.csv").mkdir()
    said = repair_rules_of({"app": "shop", "logs": {"web": WEB}, "users": {"file": str(users)}})
    (tmp_path / "link.csv").symlink_to(log)
    for out in ("log.csv", "link.csv", "users.csv", "folder.csv"):
        with pytest.raises(InputError, match=r"is one of the files to read|is a directory"):
            find_spans(said, {"web": [str(log)]}, timeline(DAY), tmp_path / out)
    assert (log.read_text(), users.read_text()) == (nginx_line(NOW + 5, "u"), "user\nu\n")


def test_ids_of_logs_are_turned_into_users_by_a_table(tmp_path: Path) -> None:
    table = tmp_path / "users.csv"
    table.write_text("who,user\nx1,Ada\nx2,Bob\n")
    users = {"file": str(table), "id": "who", "user": "user"}
    text = nginx_line(NOW + 5, "x1") + nginx_line(NOW + 5, "x9")
    found, rows = spans(tmp_path, WEB, text, users=users)
    assert [row[0] for row in rows] == ["Ada"] and found.logs[0].nobody == 1
    table.write_text("who,user\nx1,Ada\nx1,Bob\n")
    with pytest.raises(InputError, match=r"1 ids stand in .* more than once") as error:
        spans(tmp_path, WEB, text, users=users)
    assert "x1" not in str(error.value).replace(str(tmp_path), "")


# --- The history -------------------------------------------------------------------------------------


def test_what_is_published_is_kept_and_read_back(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for number, terms in enumerate([normal(), zombie(), normal()]):
        done = publish(site, terms, [KEY], clock=FixedClock(NOW + 100 * number), history=True)
        assert done.kept
    versions = read_history([str(site)], "shop", TRUSTED)
    assert [(v.begins_at - NOW, v.document.level.value, v.reaches) for v in versions] == [
        (0, "normal", False), (100, "zombie", True), (200, "normal", False)
    ]  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "zombie/shop"])
def test_a_bucket_lists_what_was_kept_in_it(prefix: str) -> None:
    target = StoreTarget(pytest.importorskip("obstore.store").MemoryStore(), "s3://bucket", prefix)
    for terms, at in ((zombie(), NOW), (normal(), NOW + 5)):
        assert publish(target, terms, [KEY], clock=FixedClock(at), history=True).kept
    assert target.names() == ["shop.json", f"shop.v{NOW}.json", f"shop.v{NOW + 5}.json"]


def test_a_publisher_that_was_killed_before_it_kept_a_copy_is_made_good_by_the_next(tmp_path: Path) -> None:
    site = tmp_path / "site"
    publish(site, zombie(), [KEY], clock=FixedClock(NOW))
    publish(site, normal(), [KEY], clock=FixedClock(NOW + 100), history=True)
    assert len(read_history([str(site)], "shop", TRUSTED)) == 2


def test_a_history_in_a_file_has_a_document_a_line_and_none_is_taken_unsigned(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(sealed(version=2) + b"\n\n" + sealed(normal(), version=3, now=NOW + 9) + b"\n")
    assert len(read_history([str(path)], "shop", TRUSTED)) == 2
    with pytest.raises(InputError, match=r"history.jsonl:1 is no genuine document"):
        read_history([str(path)], "shop", {OTHER.id: OTHER.public})
    path.write_bytes(sealed(version=2) + b"\n" + sealed(normal(), version=2) + b"\n")
    with pytest.raises(InputError, match="two documents of version 2"):
        read_history([str(path)], "shop", TRUSTED)
    with pytest.raises(InputError, match="no document of other"):
        path.write_bytes(sealed())
        read_history([str(path)], "other", TRUSTED)


# --- Rules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "nginx", "user": "cookie:x"}, "has no \\$cookie_x"),
        ({"format": "s3", "user": "header:x"}, "does not stand in logs of format s3"),
        ({"format": "nginx", "user": "who"}, "user"),
        ({"format": "nginx", "user": "query:who", "evidence": "queue"}, "needs queued_at and incident"),
        ({"format": "nginx", "user": "query:who", "log_format": "$status$request"}, "nothing stands between"),
        ({"format": "nginx", "user": "field:status", "log_format": "$status $request"}, "needs the time"),
        ({"format": "s3", "user": "query:who", "log_format": "$x"}, "log_format is for nginx"),
        ({"format": "s3", "user": "query:who", "colour": "red"}, "there is no such key"),
    ],
)
def test_rules_that_cannot_be_meant_are_told(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        repair_rules_of({"app": "shop", "logs": {"web": changed}})
