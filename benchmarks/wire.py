"""CPU per notification: Flashcast's data plane beside TLS alone, h2load, aioapns and httpx, measured in one run.

    scripts/bench wire            a table
    python benchmarks/wire.py --json

Every sender is a process of its own; its CPU is user plus system time from the first request to the last reply. The
receiver is Flashcast's simulator (profile ideal) where it can be; h2load speaks to nghttpd, since it sends the same
few requests again and again, which the simulator would count as duplicates, and Flashcast is measured against
nghttpd too, so that there is a pair with the same receiver. TLS alone moves the same bytes over as many connections
through the same TLS channel, in volleys of the same size, each sent when the replies to the one before have come; "TLS
stream" never waits for replies, a pattern no provider's stream limits permit. Each figure is the best of --rounds, in
turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flashcast.simulator.credentials import KEY_ID, TEAM_ID, prepare_credentials
from flashcast.simulator.process import SimulatorProcess

HERE = Path(__file__).parent
CONNECTIONS = 4
"""What the plan opens for a provider that answers at once."""
TOKEN = "0" * 64
H2LOAD_BODY = b'{"aps":{"alert":{"title":"Do your lesson","body":"No buts. Five minutes are enough."}}}'


def sender(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Runs one sender of `sending.py` and returns what it printed."""
    done = subprocess.run(
        [sys.executable, str(HERE / "sending.py"), name, json.dumps(options)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    for key in ("accepted", "answered"):
        if result.get(key, options["requests"]) != options["requests"]:
            raise SystemExit(f"{name}: {result[key]} of {options['requests']} {key}: the figure would mean nothing")
    return result


def with_simulator(name: str, requests: int) -> dict[str, Any]:
    """A sender against a fresh simulator, whose ledger must agree."""
    with tempfile.TemporaryDirectory() as folder, SimulatorProcess(Path(folder), expected=requests) as simulator:
        options = {"config": str(simulator.config_path), "requests": requests, "connections": CONNECTIONS}
        result = sender(name, options)
        counts = simulator.stop()
        if counts.duplicates or counts.distinct < requests:
            raise SystemExit(f"{name}: the simulator counted {counts.distinct} tokens, {counts.duplicates} duplicates")
        return result


def tls(like: dict[str, Any], pattern: str) -> dict[str, Any]:
    """TLS alone, moving the bytes that ``like`` moved, in volleys of the same size; see `sending.tls_alone`."""
    requests = like["requests"]
    each_in, each_out = like["bytes_sent"] // requests, like["bytes_received"] // requests
    with tempfile.TemporaryDirectory() as folder:
        made = prepare_credentials(Path(folder))
        command = [sys.executable, str(HERE / "tls_sink.py"), str(made.server_certificate), str(made.server_key)]
        command += [str(each_in), str(each_out)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sink:
            assert sink.stdin is not None
            assert sink.stdout is not None
            options = {
                "endpoint": f"https://127.0.0.1:{int(sink.stdout.readline())}", "ca_file": str(made.ca_file),
                "requests": requests, "connections": CONNECTIONS, "volley": requests // like["volleys"],
                "bytes_in": each_in, "bytes_out": each_out, "pattern": pattern,
            }  # fmt: skip
            result = sender("tls", options)
            sink.stdin.close()
    return result


class Nghttpd:
    """nghttpd with one thread, on a port that was free a moment ago."""

    def __init__(self, folder: Path) -> None:
        made = prepare_credentials(folder)
        certificate, key = made.server_certificate, made.server_key
        (folder / "3" / "device").mkdir(parents=True)
        (folder / "3" / "device" / TOKEN).write_text("")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        command = [
            "nghttpd",
            "-a",
            "127.0.0.1",
            "-m",
            "1000",
            "-d",
            str(folder),
            str(self.port),
            str(key),
            str(certificate),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise SystemExit("nghttpd did not start")

    def __enter__(self) -> Nghttpd:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.wait()


def h2load(requests: int) -> dict[str, Any]:
    """h2load posting a body of the same size to nghttpd; CPU from the operating system's account of the child."""
    with tempfile.TemporaryDirectory() as name, Nghttpd(Path(name)) as server:
        body = Path(name) / "body.json"
        body.write_bytes(H2LOAD_BODY)
        command = [
            "h2load", "-n", str(requests), "-c", str(CONNECTIONS), "-m", "1000", "-t", "1", "-d", str(body),
            "-H", "apns-topic: com.example.app", "-H", "apns-push-type: alert", "-H", "apns-priority: 10",
            "-H", "apns-expiration: 0", "-H", "authorization: bearer " + "x" * 180,
            f"https://127.0.0.1:{server.port}/3/device/" + TOKEN,
        ]  # fmt: skip
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
        line = next(line for line in out.splitlines() if line.startswith("requests:"))
        if f"{requests} done" not in line:
            raise SystemExit(f"h2load: {line}")
        spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return {"requests": requests, "cpu_s": spent, "wall_s": took}


def flashcast_to_nghttpd(requests: int) -> dict[str, Any]:
    """Flashcast against nghttpd: every row has the token of the one path that nghttpd knows, as h2load has."""
    with tempfile.TemporaryDirectory() as name, Nghttpd(Path(name)) as server:
        made = prepare_credentials(Path(name))
        config = Path(name) / "flashcast.toml"
        config.write_text(
            f'[apns]\nendpoint = "https://127.0.0.1:{server.port}"\nca_file = "{made.ca_file}"\n'
            f'key_file = "{made.apns_key}"\nkey_id = "{KEY_ID}"\nteam_id = "{TEAM_ID}"\n'
        )
        options = {"config": str(config), "requests": requests, "connections": CONNECTIONS, "token": TOKEN}
        return sender("apns", options)


def us(result: dict[str, Any]) -> float:
    """CPU per request in microseconds."""
    return float(result["cpu_s"] / result["requests"] * 1e6)


def measure(requests: int, rounds: int, few: int) -> dict[str, Any]:
    """All senders in turns; the best of ``rounds`` for each."""
    best: dict[str, dict[str, Any]] = {}

    def keep(name: str, result: dict[str, Any]) -> dict[str, Any]:
        if name not in best or us(result) < us(best[name]):
            best[name] = result
        print(f"  {name:24} {us(result):10.3f} us", file=sys.stderr)
        return result

    nghttp = shutil.which("h2load") is not None and shutil.which("nghttpd") is not None
    for _ in range(rounds):
        for provider, rows in (("apns", requests), ("fcm", requests // 2)):
            like = keep(f"flashcast_{provider}", with_simulator(provider, rows))
            keep(f"tls_alone_{provider}", tls(like, "volleys"))
            keep(f"tls_stream_{provider}", tls(like, "stream"))
        if nghttp:
            keep("flashcast_nghttpd", flashcast_to_nghttpd(requests // 4))
            keep("h2load_nghttpd", h2load(requests // 4))
        keep("aioapns", with_simulator("aioapns", few))
        keep("httpx_fcm", with_simulator("httpx", few))
    cpu = {name: round(us(result), 4) for name, result in best.items()}
    ratios = {
        "apns_to_tls_alone": cpu["flashcast_apns"] / cpu["tls_alone_apns"],
        "fcm_to_tls_alone": cpu["flashcast_fcm"] / cpu["tls_alone_fcm"],
        "apns_to_tls_stream": cpu["flashcast_apns"] / cpu["tls_stream_apns"],
        "fcm_to_tls_stream": cpu["flashcast_fcm"] / cpu["tls_stream_fcm"],
        "aioapns_to_apns": cpu["aioapns"] / cpu["flashcast_apns"],
        "httpx_to_fcm": cpu["httpx_fcm"] / cpu["flashcast_fcm"],
    }
    if nghttp:
        ratios["h2load_to_apns"] = cpu["h2load_nghttpd"] / cpu["flashcast_apns"]
        ratios["h2load_to_flashcast_same_server"] = cpu["h2load_nghttpd"] / cpu["flashcast_nghttpd"]
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}",
        "requests": {name: result["requests"] for name, result in best.items()},
        "cpu_us_per_notification": cpu,
        "requests_per_s": {name: round(result["requests"] / result["wall_s"]) for name, result in best.items()},
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=2_000_000, help="for the fast senders (FCM half of it)")
    parser.add_argument("--few", type=int, default=5_000, help="for the slow ones")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    result = measure(given.requests, given.rounds, given.few)
    if given.json:
        print(json.dumps(result, indent=2))
        return
    print(result["machine"])
    for name, cpu in result["cpu_us_per_notification"].items():
        print(f"  {name:24} {cpu:10.3f} us CPU each, {result['requests_per_s'][name]:>12,} requests/s")
    for name, ratio in result["ratios"].items():
        print(f"  {name:24} {ratio:10.2f} times")


if __name__ == "__main__":
    main()
