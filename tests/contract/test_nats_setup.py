"""How the NATS engine is opened: who may, over what, and what it says of servers that keep less than they could."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from certificates import Certificates, make_certificates
from flashcast.engine.base import EngineUnavailable
from flashcast.engine.nats import NatsEngine, NatsOptions
from flashcast.engine.nats_checks import DISKS_UNKNOWN, check_server
from flashcast.engine.nats_options import parse_servers
from flashcast.engine.nats_wire import Wire
from flashcast.errors import ConfigError, CredentialError, EnvironmentFault, FlashcastError
from nats_identities import credentials, new_identity
from nats_servers import NatsServer, TcpProxy, free_port

SECRET = "correct-horse-battery"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One without any authentication."""
    with NatsServer(tmp_path_factory.mktemp("open")) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One that knows a user, who may do everything, and one who may do nothing of use."""
    users = (
        f'{{ user: operator, password: "{SECRET}" }}, '
        f'{{ user: visitor, password: "{SECRET}", permissions: {{ publish: "hello", subscribe: ">" }} }}, '
        f'{{ user: deaf, password: "{SECRET}", permissions: {{ publish: ">", subscribe: "hello" }} }}, '
        f'{{ user: reader, password: "{SECRET}", permissions: {{ publish: {{ deny: "$JS.API.CONSUMER.MSG.>" }} }} }}'
    )
    with NatsServer(tmp_path_factory.mktemp("guarded"), config=f"authorization {{ users: [{users}] }}") as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory, authority: Certificates) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("tls"), config=_tls(authority)) as running:
        yield running


def _tls(authority: Certificates, more: str = "") -> str:
    return f'tls {{ cert_file: "{authority.certificate_file}", key_file: "{authority.key_file}", {more} }}'


def works(address: str, options: NatsOptions | None = None) -> NatsEngine:
    """Opens the engine, writes and reads in both spaces; returns it closed."""

    async def main() -> NatsEngine:
        async with NatsEngine(address, options) as engine:
            for space in (engine.durable, engine.volatile):
                revision = await space.put("key", b"value")
                entry = await space.get("key")
                assert entry is not None and (entry.value, entry.revision) == (b"value", revision)
                assert [entry.key for entry in await space.entries()] == ["key"]
        return engine

    return asyncio.run(main())


def refuses(address: str, options: NatsOptions | None = None, *, kind: type[FlashcastError]) -> str:
    """Opens the engine, which must fail so; returns what it says, without the secret in it."""

    async def main() -> str:
        with pytest.raises(kind) as caught:
            async with NatsEngine(address, options):
                pass
        assert type(caught.value) in (kind, EngineUnavailable)
        return str(caught.value)

    told = asyncio.run(main())
    assert SECRET not in told
    return told


def ask(server: NatsServer, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """One call of the JetStream API by a stranger."""

    async def main() -> dict[str, Any]:
        client = Client()
        await client.connect(server.url)
        reply = await client.request(f"$JS.API.{name}", json.dumps(body).encode(), timeout=5)
        await client.close()
        return dict(json.loads(reply.data))

    answer = asyncio.run(main())
    assert "error" not in answer, answer
    return answer


# --- who we are --------------------------------------------------------------------------------------------


def test_a_user_and_password_open_it(guarded: NatsServer) -> None:
    works(guarded.url, NatsOptions(user="operator", password=SECRET))


def test_a_user_and_password_in_the_address_open_it_and_are_never_shown(guarded: NatsServer) -> None:
    engine = works(f"nats://operator:{SECRET}@127.0.0.1:{guarded.port}")
    assert engine.address == guarded.url
    assert SECRET not in repr(engine)
    assert SECRET not in repr(engine._servers)
    assert SECRET not in repr(NatsOptions(user="operator", password=SECRET))


def test_a_wrong_password_is_told_with_what_to_do_and_without_it(guarded: NatsServer) -> None:
    address = f"nats://operator:wrong-{SECRET}@127.0.0.1:{guarded.port}"
    for told in (
        refuses(address, kind=CredentialError),
        refuses(guarded.url, NatsOptions(user="operator", password=f"not-{SECRET}"), kind=CredentialError),
    ):
        assert guarded.url in told and "'operator'" in told and "server knows" in told


def test_a_server_that_wants_credentials_says_so_to_a_client_without(guarded: NatsServer) -> None:
    assert "FLASHCAST_NATS_USER" in refuses(guarded.url, kind=CredentialError)


def test_a_token_in_the_address_opens_it(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config=f'authorization {{ token: "{SECRET}" }}') as server:
        engine = works(f"nats://{SECRET}@127.0.0.1:{server.port}")
        assert engine.address == server.url
        refuses(f"nats://x{SECRET}@127.0.0.1:{server.port}", kind=CredentialError)


def test_an_nkey_opens_it_and_another_does_not(tmp_path: Path) -> None:
    known, stranger = new_identity(), new_identity()
    for name, identity in (("known", known), ("stranger", stranger)):
        (tmp_path / name).write_text(f"{identity.seed}\n")
    with NatsServer(tmp_path / "s", config=f"authorization {{ users: [{{ nkey: {known.public} }}] }}") as server:
        works(server.url, NatsOptions(nkey_file=tmp_path / "known"))
        told = refuses(server.url, NatsOptions(nkey_file=tmp_path / "stranger"), kind=CredentialError)
        assert str(tmp_path / "stranger") in told and stranger.seed not in told


def test_a_credentials_file_opens_it(tmp_path: Path) -> None:
    config, path = credentials(tmp_path)
    with NatsServer(tmp_path / "s", config=config) as server:
        works(server.url, NatsOptions(credentials_file=path))


@pytest.mark.parametrize("text", ["", "SUnonsense", "-----BEGIN NATS USER JWT-----\ncut off"])
@pytest.mark.parametrize("option", ["nkey_file", "credentials_file"])
def test_a_damaged_secret_is_told_by_its_file(server: NatsServer, tmp_path: Path, option: str, text: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    told = refuses(server.url, NatsOptions(**{option: path}), kind=CredentialError)  # type: ignore[arg-type]
    assert str(path) in told
    path.unlink()
    assert "No such file" in refuses(server.url, NatsOptions(**{option: path}), kind=CredentialError)  # type: ignore[arg-type]


@pytest.mark.parametrize("user", ["visitor", "deaf"])
def test_a_user_without_rights_is_told_which_are_missing(guarded: NatsServer, user: str) -> None:
    told = refuses(guarded.url, NatsOptions(user=user, password=SECRET), kind=CredentialError)
    assert "permissions violation" in told and "$JS.API" in told and "_INBOX" in told


def test_a_watch_that_its_user_may_not_read_says_so(guarded: NatsServer) -> None:
    async def main() -> None:
        async with NatsEngine(guarded.url, NatsOptions(user="reader", password=SECRET)) as engine:
            await engine.durable.put("key", b"value")
            async with engine.durable.watch() as watch:
                with pytest.raises(CredentialError, match="permissions violation"):
                    await anext(aiter(watch))

    asyncio.run(main())


# --- TLS ---------------------------------------------------------------------------------------------------


def test_tls_with_our_own_authority(encrypted: NatsServer, authority: Certificates) -> None:
    address = f"tls://localhost:{encrypted.port}"
    assert works(address, NatsOptions(ca_file=authority.ca_file)).address == address
    works(f"nats://localhost:{encrypted.port}", NatsOptions(ca_file=authority.ca_file))


def test_a_certificate_of_a_strange_authority_is_refused(encrypted: NatsServer, tmp_path: Path) -> None:
    other = make_certificates(tmp_path)
    for options in (NatsOptions(), NatsOptions(ca_file=other.ca_file)):
        told = refuses(f"tls://localhost:{encrypted.port}", options, kind=EnvironmentFault)
        assert "cannot be trusted" in told and "FLASHCAST_NATS_CA_FILE" in told


def test_a_server_may_ask_for_a_client_certificate(tmp_path: Path, authority: Certificates) -> None:
    config = _tls(authority, f'ca_file: "{authority.ca_file}", verify: true')
    with NatsServer(tmp_path, config=config) as server:
        address = f"tls://localhost:{server.port}"
        told = refuses(address, NatsOptions(ca_file=authority.ca_file), kind=EnvironmentFault)
        assert "FLASHCAST_NATS_CERTIFICATE_FILE" in told
        own = NatsOptions(
            ca_file=authority.ca_file,
            certificate_file=authority.certificate_file,
            certificate_key_file=authority.key_file,
        )
        works(address, own)


def test_tls_that_is_asked_for_is_never_left_out(guarded: NatsServer, authority: Certificates) -> None:
    sent: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.11.0","auth_required":true,"headers":true,"max_payload":1048576}\r\n')
        sent.append(await reader.read())
        writer.close()

    async def main() -> None:
        listening = await asyncio.start_server(listen, "127.0.0.1", 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            for number, (address, options) in enumerate(
                (
                    (f"tls://operator:{SECRET}@127.0.0.1:{port}", NatsOptions()),
                    (f"nats://127.0.0.1:{port}", NatsOptions(user="u", password=SECRET, ca_file=authority.ca_file)),
                )
            ):
                with pytest.raises(EnvironmentFault, match="does not ask for TLS"):
                    async with NatsEngine(address, options):
                        pass
                while len(sent) == number:
                    await asyncio.sleep(0.01)

    asyncio.run(main())
    # Whoever listens in the server's place has not been told the password.
    assert sent == [b"", b""]
    assert "does not ask for TLS" in refuses(f"tls://operator:{SECRET}@127.0.0.1:{guarded.port}", kind=EnvironmentFault)


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path, authority: Certificates) -> None:
    missing = tmp_path / "missing.pem"
    assert str(missing) in refuses("tls://localhost", NatsOptions(ca_file=missing), kind=EnvironmentFault)
    without_key = NatsOptions(certificate_file=authority.ca_file)
    assert "CERTIFICATE_FILE" in refuses("tls://localhost", without_key, kind=CredentialError)


# --- what is there -----------------------------------------------------------------------------------------


def test_where_nobody_listens_is_told(server: NatsServer) -> None:
    port = free_port()
    told = refuses(f"nats://127.0.0.1:{port}", kind=EnvironmentFault)
    assert f"nats://127.0.0.1:{port}" in told and "refused" in told and "nats-server --jetstream" in told
    told = refuses(f"nats://127.0.0.1:{port},nats://no.such.host.invalid", kind=EnvironmentFault)
    assert f"127.0.0.1:{port}" in told and "no.such.host.invalid:4222" in told
    works(f"nats://127.0.0.1:{port},{server.url}")


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(server: NatsServer) -> None:
    with TcpProxy(server.port) as proxy:
        proxy.freeze()
        told = refuses(proxy.url, NatsOptions(timeout_s=0.2), kind=EnvironmentFault)
    assert proxy.url in told and "0.2 s" in told


def test_what_is_no_nats_server_is_told() -> None:
    async def main() -> None:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        listening = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            with pytest.raises(EnvironmentFault, match="no NATS server at"):
                async with NatsEngine(f"nats://127.0.0.1:{port}"):
                    pass

    asyncio.run(main())


def test_a_server_without_jetstream_is_told(tmp_path: Path) -> None:
    with NatsServer(tmp_path, jetstream=False) as server:
        told = refuses(server.url, kind=EnvironmentFault)
    assert "JetStream" in told and server.url in told and "on" in told


def test_replicas_that_one_server_cannot_keep_are_told(server: NatsServer) -> None:
    told = refuses(server.url, NatsOptions(replicas=3, bucket="three"), kind=EnvironmentFault)
    assert "3 replicas" in told and "FLASHCAST_NATS_REPLICAS=1" in told


def test_ten_that_open_it_at_once_make_one_pair_of_buckets(server: NatsServer) -> None:
    async def main() -> None:
        engines = [NatsEngine(server.url, NatsOptions(bucket="together")) for _ in range(10)]
        await asyncio.gather(*(engine.__aenter__() for engine in engines))
        await engines[0].durable.put("key", b"value")
        assert [await engine.durable.get("key") is not None for engine in engines] == [True] * 10
        await asyncio.gather(*(engine.close() for engine in engines))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"max_age": 3_600_000_000_000, "duplicate_window": 1_000_000_000}, "max_age"),
        ({"max_bytes": 1_000_000}, "max_bytes"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject is 5 and must be 1"),
    ],
)
def test_a_bucket_that_could_lose_claims_is_refused(server: NatsServer, change: dict[str, int], told: str) -> None:
    name = f"odd-{next(iter(change))}"
    stream = f"KV_{name}_durable"
    config = {"name": stream, "subjects": [f"$KV.{name}_durable.>"], "max_msgs_per_subject": 1, **change}
    ask(server, f"STREAM.CREATE.{stream}", config)
    message = refuses(server.url, NatsOptions(bucket=name), kind=EnvironmentFault)
    assert told in message and stream in message and "FLASHCAST_NATS_BUCKET" in message


# --- where it is weaker than it could be -------------------------------------------------------------------


def test_one_replica_and_disks_that_nobody_can_look_at_are_warned_of(server: NatsServer) -> None:
    engine = works(server.url)
    assert DISKS_UNKNOWN in engine.warnings
    assert any("one server" in warning and "FLASHCAST_NATS_REPLICAS=3" in warning for warning in engine.warnings)
    assert "sync_interval: always" in DISKS_UNKNOWN and "FLASHCAST_NATS_MONITOR" in DISKS_UNKNOWN


def test_a_server_that_syncs_always_is_not_warned_of(server: NatsServer) -> None:
    engine = works(server.url, NatsOptions(monitor=server.monitor))
    assert not any("to its disk every" in warning or "sync_interval" in warning for warning in engine.warnings)


def test_a_server_that_syncs_now_and_then_is_warned_of(tmp_path: Path) -> None:
    with NatsServer(tmp_path, sync_always=False) as server:
        engine = works(server.url, NatsOptions(monitor=f"{server.monitor},http://127.0.0.1:{free_port()}"))
    assert any("every 120 s" in warning and server.monitor in warning for warning in engine.warnings)
    assert any("does not say" in warning and "refused" in warning for warning in engine.warnings)


def test_a_durable_bucket_in_memory_is_warned_of(server: NatsServer) -> None:
    stream = "KV_forgetful_durable"
    config = {"name": stream, "subjects": ["$KV.forgetful_durable.>"], "max_msgs_per_subject": 1, "storage": "memory"}
    ask(server, f"STREAM.CREATE.{stream}", config)
    engine = works(server.url, NatsOptions(bucket="forgetful"))
    assert any("memory" in warning and stream in warning for warning in engine.warnings)


@pytest.mark.parametrize(
    ("version", "replicas", "result"),
    [
        ("2.8.4", 1, "2.9 or newer is needed"),
        ("2.9.10", 1, None),
        ("2.9.20", 3, "may both win the same claim"),
        ("2.9.21", 3, "come to differ"),
        ("2.10.29", 3, "come to differ"),
        ("2.11.0", 3, None),
        ("2.12.0-beta.1", 3, None),
        ("3.0.0", 3, None),
    ],
)
def test_versions_that_do_and_do_not_do(version: str, replicas: int, result: str | None) -> None:
    wire = Wire(parse_servers("nats://a")[0], NatsOptions(), None)
    wire.client._server_info = {"version": version, "max_payload": 1 << 20}
    try:
        told = check_server(wire, replicas)
    except EnvironmentFault as error:
        told = [str(error)]
    assert told == [] if result is None else any(result in words for words in told)


def test_a_server_that_takes_only_small_messages_is_refused(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config="max_payload: 64KB") as server:
        assert "max_payload" in refuses(server.url, kind=EnvironmentFault)


# --- settings ----------------------------------------------------------------------------------------------


def test_the_environment_says_how(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    options = NatsOptions.from_environment(
        {
            "FLASHCAST_NATS_REPLICAS": "3",
            "FLASHCAST_NATS_BUCKET": "superbowl",
            "FLASHCAST_NATS_USER": "operator",
            "FLASHCAST_NATS_PASSWORD_FILE": str(tmp_path / "password"),
            "FLASHCAST_NATS_CA_FILE": "/etc/ca.pem",
            "FLASHCAST_NATS_TIMEOUT_S": "0.5",
            "FLASHCAST_NATS_MONITOR": "",
        }
    )
    assert options == NatsOptions(
        replicas=3, bucket="superbowl", user="operator", password=SECRET, ca_file=Path("/etc/ca.pem"), timeout_s=0.5
    )
    assert NatsOptions.from_environment({}) == NatsOptions()


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"REPLICAS": "three"}, "FLASHCAST_NATS_REPLICAS 'three': not a number"),
        ({"REPLICAS": "6"}, "FLASHCAST_NATS_REPLICAS 6"),
        ({"BUCKET": "a.b"}, "FLASHCAST_NATS_BUCKET 'a.b'"),
        ({"TIMEOUT_S": "0"}, "FLASHCAST_NATS_TIMEOUT_S 0"),
        ({"TIMEOUT_S": "nan"}, "FLASHCAST_NATS_TIMEOUT_S"),
        ({"USER": "u"}, "FLASHCAST_NATS_PASSWORD missing"),
        ({"PASSWORD": SECRET}, "FLASHCAST_NATS_USER missing"),
        ({"PASSWORD": SECRET, "PASSWORD_FILE": "/x"}, "FLASHCAST_NATS_PASSWORD_FILE"),
        ({"PASSWORD_FILE": "/no/such/file"}, "/no/such/file"),
        ({"USER": "u", "PASSWORD": SECRET, "NKEY": "/k"}, "FLASHCAST_NATS_NKEY"),
        ({"CREDENTIALS": "/c", "NKEY": "/k"}, "FLASHCAST_NATS_CREDENTIALS and FLASHCAST_NATS_NKEY"),
        ({"CERTIFICATE_KEY_FILE": "/k"}, "FLASHCAST_NATS_CERTIFICATE_FILE missing"),
    ],
)
def test_a_wrong_setting_is_named(variables: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NatsOptions.from_environment({f"FLASHCAST_NATS_{name}": value for name, value in variables.items()})
    assert told in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "", ",", "http://h:4222", f"nats://u:{SECRET}@", f"nats://u:{SECRET}@h:port", f"ws://u:{SECRET}@h",
        f"nats://u:{SECRET}@h:4222/path", "nats://h:99999", f"nats://[u:{SECRET}@h",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_without_its_secret(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NatsEngine(address)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("nats://h", "nats://h:4222"),
        ("h:1", "nats://h:1"),
        ("nats://a:1, tls://b", "nats://a:1,tls://b:4222"),
        (f"nats://u:{SECRET}@a,nats://{SECRET}@b", "nats://a:4222,nats://b:4222"),
        ("nats://[::1]:4223", "nats://[::1]:4223"),
    ],
)
def test_an_address_is_shown_without_secrets(address: str, shown: str) -> None:
    assert NatsEngine(address).address == shown


def test_a_password_with_odd_letters_is_read_as_it_was_meant() -> None:
    (server,) = parse_servers("nats://op%40corp:p%2Fa%3Ass@h")
    assert (server.user, server.password) == ("op@corp", "p/a:ss")


def test_an_engine_that_is_not_open_says_so(server: NatsServer) -> None:
    async def main() -> None:
        engine = NatsEngine(server.url)
        with pytest.raises(EngineUnavailable, match="not open"):
            _ = engine.durable
        async with engine:
            durable = engine.durable
        calls: list[Callable[[], Any]] = [lambda: durable.get("key"), durable.entries, lambda: durable.put("key", b"")]
        for call in calls:
            with pytest.raises(EngineUnavailable, match="closed"):
                await call()
        with pytest.raises(EngineUnavailable, match="closed"):
            async with durable.watch():
                pass

    asyncio.run(main())


def test_nothing_that_went_wrong_was_printed(guarded: NatsServer, capfd: pytest.CaptureFixture[str]) -> None:
    refuses(f"nats://operator:{SECRET}x@127.0.0.1:{guarded.port}", kind=CredentialError)
    refuses(f"nats://127.0.0.1:{free_port()}", kind=EnvironmentFault)
    printed = capfd.readouterr()
    assert not re.search(r"\S", printed.out + printed.err)
