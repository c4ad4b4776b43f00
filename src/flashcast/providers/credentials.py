"""The contract of a credential: a header value, and what to do when the provider no longer likes it."""

from __future__ import annotations

from typing import Protocol


class Credential(Protocol):
    """Who we are to one provider. Used from several threads; every method is safe to call from any."""

    def authorization(self) -> str | None:
        """The value of the `authorization` header, or None where the TLS certificate speaks for us."""
        ...

    def keep_fresh(self) -> None:
        """Renews the credential if it is about to run out; may wait for the network. Call it now and then."""
        ...

    def refused(self, authorization: str | None) -> bool:
        """The provider called ``authorization`` expired. Returns whether a newer one is, or will be, to be had."""
        ...
