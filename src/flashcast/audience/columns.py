"""Which column of the audience is the user id, the platform, the token, and which fill the fields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from flashcast.errors import AudienceError
from flashcast.model import Provider

USER_ID: Final = "user_id"
PLATFORM: Final = "platform"
TOKEN: Final = "token"

ALIASES: Final[dict[str, tuple[str, ...]]] = {
    USER_ID: ("user_id", "user", "uid", "customer_id", "external_id", "external_user_id", "member_id", "account_id"),
    PLATFORM: ("platform", "os", "device_os", "device_platform", "device_type", "provider", "push_provider"),
    TOKEN: (
        "token", "device_token", "push_token", "registration_id", "registration_token", "reg_id",
        "apns_token", "fcm_token",
    ),
}  # fmt: skip
"""Names that a column may have instead; case, underscores, hyphens and spaces make no difference."""

PLATFORMS: Final[dict[str, Provider]] = {
    **dict.fromkeys(("apns", "ios", "iphone", "ipad", "ipados", "apple"), Provider.APNS),
    **dict.fromkeys(("fcm", "android", "google", "firebase", "gcm"), Provider.FCM),
}
"""Values of the platform column, lower-cased and stripped."""


def plain(name: str) -> str:
    """A column name without what people spell differently: ``Device-Token`` is ``devicetoken``."""
    return re.sub(r"[\s_\-]+", "", name).lower()


def is_identity(name: str) -> bool:
    """Whether a column of this name is a user id, platform or token, whose text must be kept to the letter."""
    return any(plain(name) == plain(alias) for aliases in ALIASES.values() for alias in aliases)


@dataclass(frozen=True)
class ColumnMap:
    """The audience's own column names. ``others`` maps the campaign's names to the audience's."""

    token: str
    user_id: str | None
    platform: str | None
    others: Mapping[str, str]

    @property
    def selected(self) -> tuple[str, ...]:
        """Every column to read, each once."""
        named = (self.user_id, self.platform, self.token, *self.others.values())
        return tuple(dict.fromkeys(name for name in named if name is not None))


def resolve(
    present: Sequence[str],
    given: Mapping[str, str],
    wanted: Iterable[str],
    *,
    platform_needed: bool,
    user_id_needed: str | None,
) -> ColumnMap:
    """Finds the columns among ``present``.

    ``given`` is what ``--map`` says (our name to theirs), ``wanted`` the columns of fields and variants.
    ``user_id_needed`` names the option that cannot do without a user id, if there is one.
    Raises AudienceError naming what is wanted, what was tried and what is there.
    """
    for ours, theirs in given.items():
        if theirs not in present:
            raise AudienceError(f"--map {ours}={theirs}: there is no column {theirs!r}", remedy=_present(present))
    token = _role(TOKEN, present, given)
    if token is None:
        raise _missing(TOKEN, present, "the device token")
    platform = _role(PLATFORM, present, given)
    if platform is None and platform_needed:
        raise _missing(
            PLATFORM, present, "the platform, because the campaign has a message for more than one provider"
        )
    user_id = _role(USER_ID, present, given)
    if user_id is None and user_id_needed:
        raise _missing(USER_ID, present, f"the user id, which {user_id_needed} needs")
    others = {column: _other(column, present, given) for column in sorted(set(wanted))}
    return ColumnMap(token, user_id, platform, others)


def find_role(role: str, present: Sequence[str]) -> str | None:
    """The column that is ``role`` by name or alias, None if there is none. Raises AudienceError if several could be."""
    return _role(role, present, {})


def _role(role: str, present: Sequence[str], given: Mapping[str, str]) -> str | None:
    if role in given:
        return given[role]
    taken = set(given.values())
    for exact in (lambda name: name == role, lambda name: plain(name) == plain(role)):
        found = [name for name in present if exact(name) and name not in taken]
        if len(found) == 1:
            return found[0]
    known = {plain(alias) for alias in ALIASES[role]}
    found = [name for name in present if plain(name) in known and name not in taken]
    if len(found) > 1:
        raise AudienceError(
            f"several columns could be the {role}: {', '.join(found)}",
            remedy=f"Say which with --map {role}={found[0]}.",
        )
    return found[0] if found else None


def _other(column: str, present: Sequence[str], given: Mapping[str, str]) -> str:
    if column in given:
        return given[column]
    if column in present:
        return column
    alike = [name for name in present if plain(name) == plain(column)]
    if len(alike) == 1:
        return alike[0]
    # A field may use the token-side columns by our names for them: {{user_id}} with a column called uid.
    if column in ALIASES and (role := _role(column, present, given)) is not None:
        return role
    raise AudienceError(
        f"the campaign uses the column {column!r}, which the audience lacks",
        remedy=f"{_present(present)} Take the field out of the message, add the column, or say --map {column}=COLUMN.",
    )


def _missing(role: str, present: Sequence[str], what: str) -> AudienceError:
    return AudienceError(
        f"no column for {what}: tried {', '.join(ALIASES[role])}",
        remedy=f"{_present(present)} Say --map {role}=COLUMN.",
    )


def _present(present: Sequence[str]) -> str:
    return f"The audience has: {', '.join(present) or 'no columns'}."
