"""Users of a nats-server that prove who they are with keys: nkeys, and JWTs in a .creds file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys


@dataclass(frozen=True)
class Identity:
    """An nkey pair."""

    seed: str
    public: str

    def sign(self, claims: dict[str, Any]) -> str:
        """A NATS JWT, version 2, issued by this identity."""
        claims = {"iat": int(time.time()), "iss": self.public, **claims}
        digest = hashlib.sha256(json.dumps(claims).encode()).digest()
        claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
        parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)
        text = ".".join(_word(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_word(nkeys.from_seed(bytearray(self.seed.encode())).sign(text.encode()))}"


def new_identity(prefix: int = nkeys.PREFIX_BYTE_USER) -> Identity:
    """A new key pair: of a user, an account or an operator."""
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    pair = nkeys.from_seed(bytearray(seed))
    return Identity(seed.decode(), pair.public_key.decode())


def credentials(folder: Path) -> tuple[str, Path]:
    """A server's configuration that trusts a new operator, and the .creds file of a user who may use JetStream."""
    operator = new_identity(nkeys.PREFIX_BYTE_OPERATOR)
    account, system = new_identity(nkeys.PREFIX_BYTE_ACCOUNT), new_identity(nkeys.PREFIX_BYTE_ACCOUNT)
    user = new_identity()
    unlimited = dict.fromkeys(
        ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams",
         "consumer"), -1
    )  # fmt: skip
    rules = {"limits": {**unlimited, "wildcards": True}, "type": "account", "version": 2}
    system_rules = {"limits": dict.fromkeys(("subs", "data", "payload", "conn"), -1), "type": "account", "version": 2}
    operator_jwt = operator.sign({"sub": operator.public, "name": "o", "nats": {"type": "operator", "version": 2}})
    account_jwt = operator.sign({"sub": account.public, "name": "a", "nats": rules})
    system_jwt = operator.sign({"sub": system.public, "name": "s", "nats": system_rules})
    user_jwt = account.sign(
        {
            "sub": user.public,
            "name": "u",
            "nats": {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2},
        }
    )
    path = folder / "user.creds"
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    known = f"{account.public}: {account_jwt}, {system.public}: {system_jwt}"
    config = (
        f"operator: {operator_jwt}\nsystem_account: {system.public}\nresolver: MEMORY\nresolver_preload: {{ {known} }}"
    )
    return config, path


def _word(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
