"""Rules turn spans into grants: minutes that count, local days and hours, and each user once per incident."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from repair_receiver import Manner, receiving
from typer.testing import CliRunner

from flashcast.cli.main import app
from flashcast.errors import CredentialError, ExitCode, InputError
from flashcast.zombie.repair.deliver import Delivered, Doubt, to_file, to_webhook
from flashcast.zombie.repair.grants import Grant, grants_of
from flashcast.zombie.repair.ledger import Ledger
from flashcast.zombie.repair.rules import RepairRules, repair_rules_of
from flashcast.zombie.repair.spans import COLUMNS

LOGS = {"web": {"format": "nginx", "user": "query:who"}}


def rules(grant: dict[str, Any] | None = None, **more: Any) -> RepairRules:
    return repair_rules_of({"app": "shop", "logs": LOGS, "grants": {"streak": grant or {}}} | more)


def table(path: Path, *rows: str) -> Path:
    """Rows of "user from until level off keep", times of 2026-03-28 (HH:MM) or with a date, in UTC."""

    def moment(text: str) -> str:
        return f"{text if 'T' in text else f'2026-03-28T{text}'}:00Z"

    lines = [",".join(COLUMNS)]
    for row in rows:
        said = row.split()
        user, since, until, level, off, keep = said if len(said) == 6 else [*said, "zombie", "*", ""]
        lines.append(f"inc-1,{user},{moment(since)},{moment(until)},{level},{off},{keep},1,0,0,web")
    path.write_text("\n".join(lines) + "\n")
    return path


def granted(tmp_path: Path, said: RepairRules, *rows: str) -> list[Grant]:
    with grants_of(said, table(tmp_path / "spans.csv", *rows)) as grants:
        return sorted((one for page in grants.pages() for one in page), key=lambda grant: grant.user)


def test_spans_of_one_user_and_incident_are_one_grant_and_overlaps_count_once(tmp_path: Path) -> None:
    (one,) = granted(tmp_path, rules({"payload": {"days": 1}}), "u 10:00 10:10", "u 10:05 10:20", "u 12:00 12:01")
    assert (one.minutes, one.dates, one.levels) == (21, ("2026-03-28",), ("zombie",))
    assert one.told["from"] == "2026-03-28T10:00:00Z" and one.told["until"] == "2026-03-28T12:01:00Z"
    assert one.told["payload"] == {"days": 1}


def test_the_key_depends_on_app_grant_incident_and_user_alone(tmp_path: Path) -> None:
    first = granted(tmp_path, rules(), "u 10:00 10:10")
    later = granted(tmp_path, rules(), "u 09:00 11:00", "v 09:00 10:00")
    assert first[0].key == later[0].key != later[1].key


@pytest.mark.parametrize(
    ("grant", "users"),
    [
        ({"minutes": 10}, {"a", "c", "d"}),
        ({"minutes": 10.1}, set()),
        ({"levels": ["shielded"]}, {"b", "c"}),
        ({"off": ["feed"]}, {"a", "b"}),
        ({"off": ["payments"]}, {"a"}),
        ({"off": ["feed", "search"]}, {"a", "b", "c", "d"}),
        ({"incidents": ["inc-2"]}, set()),
    ],
)
def test_only_time_that_the_rule_means_counts(tmp_path: Path, grant: dict[str, Any], users: set[str]) -> None:
    rows = [
        "a 10:00 10:10 zombie * -",
        "b 10:00 10:05 shielded feed -",
        "c 10:00 10:10 shielded search -",
        "d 10:00 10:10 recovering search -",
    ]
    assert {one.user for one in granted(tmp_path, rules(grant), *rows)} == users
    rows = ["a 10:00 10:10 zombie * feed"]
    assert not granted(tmp_path, rules({"off": ["feed"]}), *rows)


def test_the_users_own_day_decides_and_summer_time_is_known(tmp_path: Path) -> None:
    users = tmp_path / "users.csv"
    users.write_text("user,zone\ntokyo,Asia/Tokyo\nny,America/New_York\n")
    said = rules({"zone": "Europe/Berlin"}, users={"file": str(users), "zone": "zone"})
    found = granted(tmp_path, said, *(f"{user} 14:59 15:01" for user in ("tokyo", "ny", "else")))
    assert {one.user: one.dates for one in found} == {
        "tokyo": ("2026-03-28", "2026-03-29"), "ny": ("2026-03-28",), "else": ("2026-03-28",)
    }  # fmt: skip
    # Germany's clocks go from 2 to 3 in this night: that day ends after 23 hours.
    day = rules({"zone": "Europe/Berlin", "dates": ["2026-03-29"]})
    (one,) = granted(tmp_path, day, "u 2026-03-28T00:00 2026-03-31T00:00")
    assert one.minutes == 23 * 60 and one.dates == ("2026-03-29",)
    users.write_text("user,zone\ntokyo,Asia/Nowhere\n")
    with pytest.raises(InputError, match=r"'Asia/Nowhere' .* is no time zone"):
        granted(tmp_path, said, "u 10:00 10:10")


def test_hours_may_cross_midnight(tmp_path: Path) -> None:
    said = rules({"between": ["22:00", "02:00"]})
    (one,) = granted(tmp_path, said, "u 2026-03-28T21:00 2026-03-29T03:00", "v 03:00 21:00")
    assert (one.user, one.minutes) == ("u", 240)


def test_a_dry_run_counts_and_calls_nobody_and_shows_no_user(tmp_path: Path) -> None:
    with receiving() as receiver:
        path = tmp_path / "r.toml"
        path.write_text(
            f'app = "shop"\n[logs.web]\nformat = "nginx"\nuser = "query:who"\n[grants.streak]\n'
            f'[webhook]\nurl = "{receiver.url}"\nbatch = 2\n'
        )
        spans = table(tmp_path / "spans.csv", *(f"secret{n} 10:00 10:10" for n in range(5)))
        ledger = tmp_path / "ledger"
        command = ["zombie", "repair", "grants", str(path), str(spans), "--to", "webhook", "--ledger", str(ledger)]
        for form in ([], ["--json"]):
            done = CliRunner().invoke(app, [*command, "--dry-run", *form])
            assert done.exit_code == 0, done.output
            assert "secret" not in done.output and "token" not in done.output
        said = json.loads(done.stdout)
        assert (said["total"], said["called"], said["calls"]) == (5, 5, 3)
        assert receiver.number == 0 and not ledger.exists()
        assert CliRunner().invoke(app, command).exit_code == 0
        said = json.loads(CliRunner().invoke(app, [*command, "--dry-run", "--json"]).stdout)
        assert (said["called"], said["states"]["done"], receiver.number) == (0, 5, 3)
    assert b"secret" not in b"".join(file.read_bytes() for file in tmp_path.glob("ledger*"))


def delivered(tmp_path: Path, webhook: dict[str, Any], *rows: str, **how: Any) -> Delivered:
    said = rules(webhook={"backoff_s": 0.0} | webhook)
    with grants_of(said, table(tmp_path / "spans.csv", *rows)) as grants, Ledger(tmp_path / "ledger") as ledger:
        return to_webhook(said, grants, ledger, **how)


def test_the_secret_goes_into_its_header_and_is_missed_before_anybody_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        webhook = {"url": receiver.url, "header": "X-Token", "secret_env": "REPAIR_TEST_SECRET"}
        with pytest.raises(CredentialError, match="REPAIR_TEST_SECRET is not set"):
            delivered(tmp_path, webhook, "u 10:00 10:10")
        monkeypatch.setenv("REPAIR_TEST_SECRET", "s3cret")
        assert delivered(tmp_path, webhook, "u 10:00 10:10").done == 1
    assert [headers["x-token"] for headers in receiver.headers] == ["s3cret"]


def test_a_wait_that_the_receiver_asks_for_is_kept(tmp_path: Path) -> None:
    waits: list[float] = []
    with receiving() as receiver:
        answers = [Manner(429, effect=False, headers={"Retry-After": "7"}), Manner()]
        receiver.way = lambda number: answers[number - 1]
        done = delivered(tmp_path, {"url": receiver.url}, "u 10:00 10:10", pause=lambda s: waits.append(s) is not None)
    assert (done.done, done.calls) == (1, 2)
    assert len(waits) == 1 and 7 <= waits[0] <= 10.5


def test_a_refusal_is_kept_and_asked_again_only_where_that_is_said(tmp_path: Path) -> None:
    with receiving() as receiver:
        receiver.way = lambda number: Manner(422, effect=False) if number == 1 else Manner()
        assert delivered(tmp_path, {"url": receiver.url}, "u 10:00 10:10").refused == 1
        assert delivered(tmp_path, {"url": receiver.url}, "u 10:00 10:10").calls == 0
        assert delivered(tmp_path, {"url": receiver.url}, "u 10:00 10:10", refused_again=True).done == 1


def test_a_receiver_that_is_down_ends_the_run_and_leaves_nothing_in_doubt(tmp_path: Path) -> None:
    with receiving() as receiver:
        url = receiver.url
    users = [f"u{n} 10:00 10:10" for n in range(60)]
    done = delivered(tmp_path, {"url": url, "attempts": 1}, *users)
    assert done.stopped and done.open == 60 and done.doubt == 0
    assert done.calls < 60
    with Ledger(tmp_path / "ledger") as ledger:
        assert ledger.counts() == {"sent": 0, "done": 0, "refused": 0}


def test_a_ledger_serves_one_receiver_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    with receiving() as receiver:
        delivered(tmp_path, {"url": receiver.url}, "u 10:00 10:10")
        with pytest.raises(InputError, match="is for receiver webhook") as error:
            delivered(tmp_path, {"url": receiver.url.replace("/grants", "/other")}, "u 10:00 10:10")
        assert "hidden" not in str(error.value)
    (tmp_path / "text").write_text("this is no database, and long enough to be taken for one" * 100)
    with pytest.raises(InputError, match="no ledger of repair"):
        Ledger(tmp_path / "text")


def test_an_address_in_the_clear_is_refused() -> None:
    with pytest.raises(InputError, match="user ids would pass in the clear"):
        rules(webhook={"url": "http://grants.example/"})


def test_the_webhooks_secret_is_not_in_its_address_and_the_remedy_says_where() -> None:
    with pytest.raises(InputError, match="name it in secret_env") as error:
        rules(webhook={"url": "https://user:hunter2@grants.example/"})
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("zone", ["localtime", "posix/Europe/Berlin", "right/UTC", "../UTC", "Europe", ""])
def test_a_zone_that_only_this_machine_knows_is_told_before_anything_is_counted(tmp_path: Path, zone: str) -> None:
    with pytest.raises(InputError, match="is no time zone"):
        rules({"zone": zone})
    users = tmp_path / "users.jsonl"
    users.write_text(json.dumps({"user": "u", "zone": zone}))
    said = rules(users={"file": str(users), "zone": "zone"})
    with pytest.raises(InputError, match="is no time zone"):
        granted(tmp_path, said, "u 10:00 10:10")


def test_what_is_wrong_with_the_receiver_leaves_no_ledger_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('app = "shop"\n[logs.web]\nformat = "nginx"\nuser = "query:who"\n[grants.streak]\n')
    command = ["zombie", "repair", "grants", str(path), str(table(tmp_path / "spans.csv", "u 10:00 10:10"))]
    for to, wrong in (("grants.txt", "neither webhook nor a file"), ("webhook", "have no [webhook]")):
        done = CliRunner().invoke(app, [*command, "--to", to, "--ledger", str(tmp_path / "ledger")])
        assert done.exit_code == ExitCode.USAGE and wrong in done.output
    done = CliRunner().invoke(app, [*command, "--to", "grants.txt", "--dry-run"])
    assert done.exit_code == ExitCode.USAGE
    assert sorted(one.name for one in tmp_path.iterdir()) == ["r.toml", "spans.csv"]
    same = str(tmp_path / "same.jsonl")
    done = CliRunner().invoke(app, [*command, "--to", same, "--ledger", same])
    assert done.exit_code == ExitCode.USAGE and "is the ledger" in done.output


HOSTILE = [
    "=cmd|'/c calc'!A1",
    'a,"b"',
    "a\nb",
    "a\rb",
    "a\r\nb",
    "a\tb",
    "a\0b",
    "' or 1=1 --",
    "<script>",
    "\u2028",
    "x" * 5_000,
]


def test_a_file_gives_every_id_back_as_it_was(tmp_path: Path) -> None:
    spans = tmp_path / "spans.csv"
    with spans.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\r\n")
        rows.writerow(COLUMNS)
        for user in HOSTILE:
            rows.writerow(
                ["inc-1", user, "2026-03-28T10:00:00Z", "2026-03-28T10:10:00Z", "zombie", "*", "", 1, 0, 0, "web"]
            )
    said = rules()
    for ending in ("csv", "jsonl"):
        out = tmp_path / f"grants.{ending}"
        with grants_of(said, spans) as grants, Ledger(tmp_path / f"{ending}.ledger") as ledger:
            assert to_file(said, grants, ledger, out).done == len(HOSTILE)
    with (tmp_path / "grants.csv").open(newline="") as file:
        assert {row["user"] for row in csv.DictReader(file)} == set(HOSTILE)
    lines = (tmp_path / "grants.jsonl").read_bytes().removesuffix(b"\n").split(b"\n")
    assert {json.loads(line)["user"] for line in lines} == set(HOSTILE)


def test_grants_in_doubt_keep_the_key_of_their_call_whatever_batch_says_now(tmp_path: Path) -> None:
    users = ["u 10:00 10:10", "v 10:00 10:10"]
    with receiving() as receiver:
        receiver.way = lambda number: Manner(500)
        webhook: dict[str, Any] = {"url": receiver.url, "attempts": 1}
        assert delivered(tmp_path, webhook | {"batch": 2}, *users).doubt == 2
        receiver.way = lambda number: Manner()
        with pytest.raises(InputError, match="would have other keys"):
            delivered(tmp_path, webhook, *users)
        assert receiver.number == 1
        assert delivered(tmp_path, webhook, *users, doubt=Doubt.SKIP).doubt == 2
        assert delivered(tmp_path, webhook | {"batch": 5}, *users).done == 2
    keys = [headers["idempotency-key"] for headers in receiver.headers]
    assert len(keys) == 2 and len(set(keys)) == 1
