"""What a client can do wrong (RFC 9113 sections 5.4 and 7)."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """The error codes of RST_STREAM and GOAWAY."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ConnectionFault(Exception):  # noqa: N818 - it is the client's fault, not an error of ours
    """Ends the connection with GOAWAY. Raised and caught inside the simulator."""

    def __init__(self, code: Code, debug: str) -> None:
        super().__init__(debug)
        self.code = code
        self.debug = debug


class StreamFault(Exception):  # noqa: N818
    """Ends one stream with RST_STREAM. Raised and caught inside the simulator."""

    def __init__(self, stream: int, code: Code, debug: str) -> None:
        super().__init__(debug)
        self.stream = stream
        self.code = code
