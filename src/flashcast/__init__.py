"""Flashcast sends a push notification to millions of phones within seconds of a person pressing GO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashcast.sender import ApnsConfig, FcmConfig, Message, Outcomes, Sender

__version__ = "0.1.0"

__all__ = ["ApnsConfig", "FcmConfig", "Message", "Outcomes", "Sender", "__version__"]


def __getattr__(name: str) -> Any:
    # The compiled kernels take half a second to load; `flashcast --help` must not pay for them.
    if name in __all__:
        from flashcast import sender

        return getattr(sender, name)
    raise AttributeError(f"module 'flashcast' has no attribute {name!r}")
