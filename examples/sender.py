"""Sends to tokens from Python, against the simulator: `python examples/sender.py`.

With real credentials, replace the two sections by your own:

    ApnsConfig(key_file="AuthKey_ABC1234567.p8", key_id="ABC1234567", team_id="DEF1234567")
    FcmConfig(service_account_file="service-account.json")
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from pathlib import Path

from flashcast import Message, Sender
from flashcast.config import load_config
from flashcast.simulator.process import SimulatorProcess


async def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        SimulatorProcess(Path(folder), profile="realistic", seed=1) as simulator,
    ):
        config = load_config(simulator.config_path)
        message = Message(
            apns={"topic": "com.example.app", "alert": {"title": "Goal!", "body": "{{name|Your team}} scores."}},
            fcm={"notification": {"title": "Goal!", "body": "{{name|Your team}} scores."}},
        )
        iphones = [secrets.token_hex(32) for _ in range(10_000)]
        androids = [f"{secrets.token_urlsafe(16)}:APA91b{secrets.token_urlsafe(96)}" for _ in range(10_000)]
        names = ["Ajax", "Porto", ""] * 3_334
        async with Sender(apns=config.apns, fcm=config.fcm) as sender:
            apple, google = await asyncio.gather(
                sender.send(iphones, message, provider="apns", columns={"name": names[:10_000]}),
                sender.send(androids, message, provider="fcm", columns={"name": names[:10_000]}),
            )
        print("APNs", apple, apple.reasons())
        print("FCM ", google, google.reasons())
        print("tokens to delete:", apple.gone.size + google.gone.size)


if __name__ == "__main__":
    asyncio.run(main())
