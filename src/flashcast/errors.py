"""One root error. Foreign exceptions are translated where IO happens; the message says what to do next."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process ends with. Documented in docs/reference/errors.md."""

    OK = 0
    UNBALANCED = 1
    """The ledger and the provider's count disagree, the launch was stopped by its provider, or preflight says no-go."""
    USAGE = 2
    """The input is wrong: a file, a field, an option."""
    ENVIRONMENT = 3
    """The world is wrong: an unreachable endpoint, a wrong CA, a full disk, a port in use."""
    CREDENTIALS = 4
    """A key, certificate or service account is missing, expired or refused."""
    BUSY = 5
    """Another launch holds the state folder, or another operator pressed GO first."""
    ABORTED = 130
    """The operator pressed Ctrl-C; the report was still written."""


class FlashcastError(Exception):
    """The root of everything Flashcast raises on purpose.

    ``message`` names the field and the value that are wrong; ``remedy`` says what to do next;
    ``retryable`` whether the same call can succeed later unchanged.
    """

    exit_code: ExitCode = ExitCode.USAGE

    def __init__(self, message: str, *, remedy: str = "", retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class InputError(FlashcastError):
    """A file, field or option that a person gave is wrong."""


class CampaignError(InputError):
    """The campaign file is wrong."""


class AudienceError(InputError):
    """The audience cannot be read, or lacks what the campaign needs."""


class SnapshotError(InputError):
    """A snapshot is damaged or does not match its digest."""


class ConfigError(InputError):
    """flashcast.toml or a FLASHCAST_ variable is wrong."""


class LifecycleError(InputError):
    """A launch is not in a state in which this can be done; docs/reference/lifecycle.md has the table."""


class EnvironmentFault(FlashcastError):
    """The machine or the network is at fault: disk, port, endpoint, certificate authority."""

    exit_code = ExitCode.ENVIRONMENT


class CredentialError(FlashcastError):
    """A key, certificate or service account is missing, expired or refused."""

    exit_code = ExitCode.CREDENTIALS


class BusyError(FlashcastError):
    """Another process holds what this one needs."""

    exit_code = ExitCode.BUSY


class Lost(BusyError):
    """Somebody else pressed GO first: there is one launch, and it is theirs.

    ``by``, ``host`` and ``at`` (Unix time) are the winner's; ``earlier_ms`` is how long before this press theirs was,
    negative where theirs came later by the clocks and reached the engine sooner.
    """

    def __init__(self, message: str, *, by: str, host: str, at: float, earlier_ms: float, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.by = by
        self.host = host
        self.at = at
        self.earlier_ms = earlier_ms


class ProtocolError(FlashcastError):
    """The peer broke HTTP/2; the connection is closed and its rows are accounted for.

    ``code`` is the RFC 9113 section 7 error code to send in GOAWAY.
    """

    exit_code = ExitCode.ENVIRONMENT

    def __init__(self, message: str, *, code: int = 0x1) -> None:
        super().__init__(message, retryable=True)
        self.code = code
