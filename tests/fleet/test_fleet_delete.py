"""A campaign that is over is deleted from the engine, and the workers that served it go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_processes import CAMPAIGN, NAME, Fleet

from flashcast.engine.base import Entry
from flashcast.engine.open import open_engine
from nats_servers import NatsServer, TcpProxy

ROWS = 10_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as running:
        yield running


def entries(fleet: Fleet) -> list[Entry]:
    """Everything durable that the engine keeps."""

    async def read() -> list[Entry]:
        async with open_engine(fleet.engine, state=fleet.folder) as engine:
            return await engine.durable.entries()

    return asyncio.run(read())


@pytest.mark.parametrize("engine", ["embedded", "nats"], indirect=True)
def test_a_campaign_that_was_sent_goes_from_the_engine_with_its_files(fleet: Fleet) -> None:
    (worker,) = fleet.start_workers("anna")
    snapshot = Path(fleet.seal(ROWS, pace=None).snapshot.url)  # type: ignore[union-attr]
    fleet.arm()
    held = fleet.flashcast("campaign", "delete", NAME, "--yes")
    assert (held.code, held.document["error"]["kind"]) == (2, "LifecycleError")
    assert "superbowl-1 is armed, and is not deleted" in held.document["error"]["message"]
    fleet.go()
    fleet.until_closed()
    fleet.until_let_go(worker)
    deleted = fleet.said("campaign", "delete", NAME, "--with-snapshot", "--yes")
    assert (deleted["launches"], deleted["whole"]) == (["superbowl-1"], True)
    assert deleted["keys"]["shards"] >= 4 and deleted["keys"]["claims"] >= 4
    assert [entry.key for entry in entries(fleet)] == ["deleted.superbowl"]
    assert not snapshot.exists() and not snapshot.with_name(f"{snapshot.name}.outcomes").exists()
    assert fleet.flashcast("report", NAME).code == 2
    again = fleet.folder / "again.toml"
    again.write_text(CAMPAIGN.format(window_s=40, policy="drop", pace=""), encoding="utf-8")
    assert fleet.said("campaign", "create", NAME, again)["latest"] == "superbowl-2", "no id is given twice"
    assert worker.end() == 0


def test_a_worker_that_was_cut_off_while_its_launch_was_deleted_lets_go_of_it(
    server: NatsServer, tmp_path: Path
) -> None:
    with TcpProxy(server.port) as proxy, Fleet(tmp_path / "fleet", server.url) as fleet:
        lonely = fleet.worker("anna", "anna", engine=proxy.url)
        bert = fleet.worker("bert", "bert")
        for worker in fleet.workers:
            worker.until_ready()
        fleet.seal(ROWS, pace=2_500)
        fleet.arm()
        fleet.go()
        fleet.until_received(ROWS // 10)
        proxy.cut()
        fleet.until_closed()
        fleet.until_let_go(bert)
        fleet.until(lambda view: not view.shards_of(fleet.launch, lonely.name), "anna's shards are bert's")
        assert fleet.said("campaign", "delete", NAME, "--yes")["launches"] == [fleet.launch]
        proxy.heal()
        fleet.until_let_go(lonely)
        assert [entry.key for entry in entries(fleet)] == ["deleted.superbowl"]
        assert lonely.end() == 0
