"""Small audiences and a campaign for them, for the tests of sealing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flashcast.campaign.file import Campaign
from flashcast.campaign.load import parse_campaign

BOTH = """
name = "Derby day"
window_s = 30
[apns]
topic = "com.example.app"
variant_by = "locale"
alert = {title = "Hello {{first_name|friend}}", body = "It starts"}
[[apns.variants]]
when = "de"
alert = {title = "Hallo {{first_name|du}}", body = "Es geht los"}
[fcm]
notification = {title = "Hello {{first_name|friend}}", body = "It starts"}
"""

APNS_ONLY = """
name = "Plain"
[apns]
topic = "com.example.app"
alert = {title = "Hi", body = "Now"}
"""


def campaign(text: str = BOTH) -> Campaign:
    """A campaign from its TOML."""
    return parse_campaign(text.encode())


def apns_token(number: int) -> str:
    """A token of 64 hexadecimal digits that no other number has."""
    return random.Random(number).randbytes(28).hex() + f"{number:08x}"


def fcm_token(number: int) -> str:
    """A token that looks like FCM's and that no other number has."""
    rng = random.Random(number)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
    return (
        "c"
        + "".join(rng.choices(alphabet, k=21))
        + ":APA91b"
        + "".join(rng.choices(alphabet, k=110))
        + f"{number:08d}"
    )


def device(number: int, **changes: Any) -> dict[str, Any]:
    """One row: even numbers are iPhones, odd ones Androids."""
    apple = number % 2 == 0
    row = {
        "user_id": f"user-{number}",
        "platform": "ios" if apple else "android",
        "token": apns_token(number) if apple else fcm_token(number),
        "locale": ("en-GB", "de-AT", "fr")[number % 3],
        "first_name": ("Ada", 'Mary "Mae"', "Łukasz\n", "", None)[number % 5],
    }
    return {**row, **changes}


def devices(count: int) -> list[dict[str, Any]]:
    """Rows 0 to ``count``."""
    return [device(number) for number in range(count)]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Writes rows as Parquet."""
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def dropped(folder: Path) -> list[dict[str, Any]]:
    """The dropped rows of a snapshot."""
    rows: list[dict[str, Any]] = pq.read_table(folder / "dropped.parquet").to_pylist()
    return rows
