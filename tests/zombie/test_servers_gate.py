"""Following the document: from a directory, an address or a bucket, through failures and across restarts."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import servers_kit as kit
import zombie_data
import zombie_s3
import zombie_server

from flashcast.clock import FixedClock
from flashcast.errors import EnvironmentFault, InputError
from flashcast.zombie.client.http import HttpResponse
from flashcast.zombie.document import Refusal, RefusedError
from flashcast.zombie.publish import publish
from flashcast.zombie.servers.gate import POLL_FAILED_S_MAX, Gate
from flashcast.zombie.servers.sources import read_document, write_if_changed


def gate_at(source: str | Path, **options: Any) -> Gate:
    given: dict[str, Any] = {"clock": FixedClock(kit.NOW), "random": lambda: 0.0, "trusted": [zombie_data.KEY.public]}
    gate = Gate(kit.routing(), source=source, **(given | options))
    gate.stop()
    return gate


def publish_to(source: str | Path, **said: Any) -> None:
    publish(source, zombie_data.zombie(**said), [zombie_data.KEY], clock=FixedClock(kit.NOW))


def test_a_directory_is_followed(tmp_path: Path) -> None:
    gate = gate_at(tmp_path)
    gate.poll()
    assert gate.table is None
    publish_to(tmp_path)
    gate.poll()
    assert gate.table is not None
    assert gate.table.everyone
    publish_to(tmp_path, buckets=10)
    gate.poll()
    assert gate.table is not None
    assert not gate.table.everyone
    assert gate.statistics().news == {"none": 1, "changed": 2}


def test_an_address_is_followed_with_conditional_requests() -> None:
    with zombie_server.serving() as place:
        gate = gate_at(place.url)
        place.file = zombie_data.sealed()
        gate.poll()
        gate.poll()
        assert gate.table is not None
        assert [poll.get("if-none-match") for poll in place.polls] == [None, place.etag]
        assert gate.statistics().news == {"changed": 1, "unchanged": 1}


def test_a_bucket_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    with zombie_s3.s3() as bucket:
        for name, value in zombie_s3.aws_environment(bucket.url).items():
            monkeypatch.setenv(name, value)
        url = "s3://bucket/zombie"
        gate = gate_at(url)
        gate.poll()
        assert gate.statistics().news == {"none": 1}
        publish_to(url)
        gate.poll()
        assert gate.table is not None


def test_a_table_that_is_not_changed_is_not_made_anew(tmp_path: Path) -> None:
    publish_to(tmp_path)
    gate = gate_at(tmp_path)
    gate.poll()
    first = gate.table
    gate.poll()
    assert gate.table is first


def test_a_poll_that_fails_is_repeated_later_and_later_up_to_a_minute() -> None:
    published = kit.Published()
    published.answers = None
    gate = gate_at("http://unused", transport=published, poll_s=10)
    assert [gate.poll() for _ in range(5)] == [20, 40, 60, 60, 60]
    assert POLL_FAILED_S_MAX == 60
    published.answers = HttpResponse(404)
    assert gate.poll() == 10
    published.answers = HttpResponse(503, {"retry-after": "200"})
    assert gate.poll() == 200
    published.answers = HttpResponse(503, {"retry-after": "86400"})
    assert gate.poll() == 300


def test_polls_are_spread_and_never_more_often_than_every_five_seconds() -> None:
    assert gate_at("http://unused", transport=kit.Published(), poll_s=0.1).poll() == 5
    assert gate_at("http://unused", transport=kit.Published(), poll_s=10, random=lambda: 0.5).poll() == 12.5


def test_a_transport_that_breaks_is_a_poll_that_failed() -> None:
    def broken(request: Any) -> HttpResponse:
        raise ZeroDivisionError

    gate = gate_at("http://unused", transport=broken)
    gate.poll()
    assert gate.statistics().news == {"failed": 1}


def test_the_last_good_document_outlives_the_process(tmp_path: Path) -> None:
    keep = tmp_path / "last.json"
    published = kit.Published(zombie_data.sealed(version=9))
    gate_at("http://unused", transport=published, keep=keep).poll()
    published.answers = None
    clock = FixedClock(kit.NOW)
    again = gate_at("http://unused", transport=published, keep=keep, clock=clock)
    assert again.table is not None
    again.poll()
    assert again.table is not None
    # And with it the version below which nothing is believed.
    published.publish(zombie_data.sealed(zombie_data.normal(), version=8))
    again.poll()
    assert again.table is not None
    clock.advance(4_000)
    again.poll()
    assert again.table is None


@pytest.mark.parametrize("kept", [b"", b"garbage", b"x" * 100_000, None])
def test_a_kept_file_that_is_damaged_is_as_good_as_none(tmp_path: Path, kept: bytes | None) -> None:
    keep = tmp_path / "last.json"
    if kept is None:
        keep.mkdir()
    else:
        keep.write_bytes(kept)
    gate = gate_at("http://unused", transport=kit.Published(zombie_data.sealed()), keep=keep)
    assert gate.table is None
    gate.poll()
    assert gate.table is not None


def test_a_gate_that_nobody_holds_ends_its_thread() -> None:
    gate = Gate(kit.routing(), source="http://unused", trusted=[kit.KEY.public], transport=kit.Published())
    before = set(threading.enumerate())
    gate.start()
    gate.start()
    (thread,) = set(threading.enumerate()) - before
    ending, held = gate._ending, weakref.ref(gate)
    del gate
    while held() is not None:
        gc.collect()
    ending.set()
    thread.join(30)
    assert not thread.is_alive()


def test_a_gate_that_was_stopped_is_not_started_by_requests(tmp_path: Path) -> None:
    gate = gate_at(tmp_path)
    assert not gate.needs_start
    before = threading.active_count()
    gate.start()
    assert threading.active_count() == before


def test_what_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InputError, match="no trusted key"):
        Gate(kit.routing(), source="http://x", trusted=[])
    with pytest.raises(InputError, match="no place to publish to"):
        Gate(kit.routing(), source="ftp://x", trusted=[kit.KEY.public])
    with pytest.raises(InputError, match="identify"):
        Gate(kit.routing(), source="http://x", trusted=[kit.KEY.public], identify=["user"])


# --- Reading for the generators --------------------------------------------------------------------


def test_a_document_is_read_from_its_folder_its_file_and_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = [zombie_data.KEY.public]
    assert read_document(tmp_path, "shop", trusted) is None
    publish_to(tmp_path)
    for source in (tmp_path, str(tmp_path), tmp_path / "shop.json", tmp_path.as_uri()):
        found = read_document(source, "shop", trusted)
        assert found is not None
        assert found.buckets == 1_000
    monkeypatch.chdir(tmp_path)
    assert read_document("shop.json", "shop", trusted) is not None
    assert read_document(".", "shop", trusted) is not None
    with zombie_server.serving() as place:
        assert read_document(place.url, "shop", trusted) is None
        place.file = zombie_data.sealed()
        assert read_document(place.url, "shop", trusted) is not None
        assert read_document(f"{place.url}/shop.json", "shop", trusted) is not None
        place.way = lambda handler: handler.answer(500, b"")
        with pytest.raises(EnvironmentFault, match="answers 500"):
            read_document(place.url, "shop", trusted)


def test_a_document_that_is_not_genuine_is_not_turned_into_a_configuration(tmp_path: Path) -> None:
    publish_to(tmp_path, cohorts=[2])
    with pytest.raises(RefusedError) as caught:
        read_document(tmp_path, "shop", [zombie_data.OTHER.public])
    assert caught.value.reason is Refusal.UNKNOWN_KEY
    with pytest.raises(RefusedError, match="for one cohort"):
        read_document(tmp_path / "shop.0-of-2.json", "shop", [zombie_data.KEY.public])
    with pytest.raises(RefusedError, match="is for shop, not for other"):
        read_document(tmp_path / "shop.json", "other", [zombie_data.KEY.public])


def test_a_generated_file_is_written_only_where_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "zombie.conf"
    assert write_if_changed(path, "a")
    before = path.stat()
    assert not write_if_changed(path, "a")
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert write_if_changed(path, "ä")
    assert path.read_text(encoding="utf-8") == "ä"
    assert [entry.name for entry in tmp_path.iterdir()] == ["zombie.conf"]
    with pytest.raises(EnvironmentFault, match="cannot write"):
        write_if_changed(tmp_path / "none" / "zombie.conf", "a")
