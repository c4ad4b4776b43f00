"""A TOML file that a person wrote, read within a bound."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from flashcast.errors import InputError


def read_toml(path: Path, bytes_max: int, remedy: str) -> dict[str, Any]:
    """Its values. Raises InputError, with ``remedy`` where it is not what it should be."""
    # One byte more than allowed tells a file that is too large from one that just fits.
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", remedy="Give the path of a TOML file.") from None
    return parse_toml(data, str(path), bytes_max, remedy)


def parse_toml(data: bytes, where: str, bytes_max: int, remedy: str) -> dict[str, Any]:
    """As `read_toml`, of the bytes of a file that is called ``where``."""
    if len(data) > bytes_max:
        raise InputError(f"{where} has more than {bytes_max:,} bytes: nobody wrote this by hand", remedy=remedy)
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where} is no TOML: {error}", remedy=remedy) from None
