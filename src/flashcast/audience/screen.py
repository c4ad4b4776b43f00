"""What is decided about a row by itself: its provider, its token, suppression, hold-out, and its rendered message.

Works on whole batches; a row that falls gets the code of a `DropReason` in ``verdicts`` and is skipped from then on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flashcast.audience import kernels
from flashcast.audience.arrays import NOTHING, VarBytes, as_text, column_bytes, empty_column
from flashcast.audience.columns import PLATFORMS, ColumnMap
from flashcast.audience.drops import KEPT, NO_MESSAGE, NO_PROVIDER, PAYLOAD_TOO_LARGE, PROVIDERS, UNKNOWN_PLATFORM
from flashcast.audience.suppression import Suppression
from flashcast.campaign.columns import choose_variants, escape_column
from flashcast.campaign.compile import CompiledMessages
from flashcast.campaign.template import body_lengths, payload_bytes_max, payload_lengths, too_long
from flashcast.errors import AudienceError, CampaignError, FlashcastError
from flashcast.limits import BODY_BYTES_MAX
from flashcast.model import Hole, Provider


@dataclass(frozen=True)
class Screened:
    """One batch. Arrays have one entry per row: ``codes`` and ``verdicts`` uint8, hashes uint64."""

    first_row: int
    codes: NDArray[np.uint8]
    verdicts: NDArray[np.uint8]
    tokens: VarBytes
    token_hashes: NDArray[np.uint64]
    users: VarBytes
    user_hashes: NDArray[np.uint64]


@dataclass(frozen=True)
class Rendered:
    """The standing rows of one provider in a batch: which they are, and what goes into their holes."""

    rows: NDArray[np.int64]
    variants: NDArray[np.uint8]
    fields: tuple[VarBytes, ...]


def used_fields(compiled: CompiledMessages, provider: Provider) -> frozenset[int]:
    """The fields that some template of ``provider`` has a hole for."""
    templates = compiled.templates.get(provider, ())
    return frozenset(part.field for t in templates for part in t.body if isinstance(part, Hole) and part.field >= 0)


def columns_wanted(compiled: CompiledMessages) -> set[str]:
    """The columns that fields and variants take from the audience."""
    chosen = {chooser.column for chooser in compiled.choosers.values() if chooser.column is not None}
    return {field.column for field in compiled.fields} | chosen


def hash_salt(campaign: str) -> np.uint64:
    """64 bits that set a campaign's hold-out apart from every other's, and from its own A/B arms."""
    return np.uint64(
        int.from_bytes(hashlib.blake2b(f"hold-out of {campaign}".encode(), digest_size=8).digest(), "little")
    )


class Screen:
    """Screens and renders batches for one campaign."""

    def __init__(
        self,
        compiled: CompiledMessages,
        columns: ColumnMap,
        suppression: Suppression | None,
        *,
        holdout: float,
        drop_too_large: bool,
    ) -> None:
        self._compiled = compiled
        self._columns = columns
        self._suppression = suppression
        self._holdout = holdout
        self._drop_too_large = drop_too_large
        self._salt = hash_salt(compiled.name)
        self._used = {provider: used_fields(compiled, provider) for provider in compiled.templates}

    def screen(self, batch: Any, first_row: int) -> Screened:
        """Judges the rows of ``batch``, an Arrow record batch whose first row is number ``first_row`` (0-based)."""
        rows = batch.num_rows
        verdicts = np.zeros(rows, np.uint8)
        codes = self._codes(batch, verdicts)
        given = self._text(batch, self._columns.token)
        # A writable copy: tokens are normalised in place, and Arrow's buffers belong to Arrow.
        tokens = VarBytes(given.data.copy(), given.offsets)
        users = self._text(batch, self._columns.user_id) if self._columns.user_id is not None else empty_column(rows)
        screened = Screened(
            first_row, codes, verdicts, tokens, np.zeros(rows, np.uint64), users, np.zeros(rows, np.uint64)
        )
        kernels.screen_tokens(tokens.data, tokens.offsets, codes, verdicts, screened.token_hashes)
        kernels.hash_column(users.data, users.offsets, screened.user_hashes)
        if self._suppression is not None:
            self._suppression.apply(verdicts, users, tokens)
        if self._holdout > 0:
            kernels.hold_out(
                verdicts, users.offsets, screened.user_hashes, screened.token_hashes, self._salt, self._holdout
            )
        return screened

    def render(self, batch: Any, screened: Screened, code: int) -> Rendered:
        """Fields and variants of the standing rows of one provider. Raises CampaignError for a message too large."""
        provider = PROVIDERS[code]
        rows = np.flatnonzero((screened.verdicts == KEPT) & (screened.codes == code))
        compiled = self._compiled
        used = self._used.get(provider, frozenset())
        if rows.size == 0:
            return Rendered(
                rows,
                np.empty(0, np.uint8),
                tuple(empty_column(0) if k in used else NOTHING for k in range(len(compiled.fields))),
            )
        picked = None if rows.size == batch.num_rows else pa.array(rows)
        fields = tuple(
            self._escaped(batch, field.column, field.fallback, picked) if index in used else NOTHING
            for index, field in enumerate(compiled.fields)
        )
        chooser = compiled.choosers[provider]
        values = None if chooser.column is None else self._column(batch, self._columns.others[chooser.column], picked)
        named = np.diff(screened.users.offsets)[rows] > 0
        ids = np.where(named, screened.user_hashes[rows], screened.token_hashes[rows])
        rendered = Rendered(rows, choose_variants(chooser, values, ids), fields)
        self._check_sizes(screened, rendered, provider)
        return rendered

    def _check_sizes(self, screened: Screened, rendered: Rendered, provider: Provider) -> None:
        token_lengths = np.diff(screened.tokens.offsets)[rendered.rows].astype(np.int64)
        lengths = [
            np.diff(f.offsets).astype(np.int64) if f.offsets.size else np.empty(0, np.int64) for f in rendered.fields
        ]
        bounds = [int(column.max(initial=0)) for column in lengths]
        longest_token = int(token_lengths.max(initial=0))
        for index, template in enumerate(self._compiled.templates[provider]):
            # Most batches cannot break the bound even with every field at its longest.
            probe = [np.array([bound]) for bound in bounds]
            if not too_long(template, probe, np.array([longest_token])).any():
                continue
            mine = np.flatnonzero(rendered.variants == index)
            chosen = [column[mine] if column.size else column for column in lengths]
            bad = mine[too_long(template, chosen, token_lengths[mine])]
            if bad.size == 0:
                continue
            if not self._drop_too_large:
                row = int(bad[0])
                one = [column[row : row + 1] if column.size else np.zeros(1, np.int64) for column in lengths]
                payload = int(payload_lengths(template, one, token_lengths[row : row + 1])[0])
                body = int(body_lengths(template, one, token_lengths[row : row + 1])[0])
                raise CampaignError(
                    f"row {screened.first_row + int(rendered.rows[row]) + 1} of the audience: "
                    f"the {provider} message, variant "
                    f"{template.variant!r}, has {payload:,} bytes once its fields are filled (the whole request body "
                    f"{body:,}); at most {payload_bytes_max(template):,} (body {BODY_BYTES_MAX:,}) are allowed",
                    remedy="Shorten the message or its fields, or leave such rows out with --drop-too-large.",
                )
            screened.verdicts[rendered.rows[bad]] = PAYLOAD_TOO_LARGE

    def _codes(self, batch: Any, verdicts: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with_message = list(self._compiled.templates)
        if self._columns.platform is None:
            return np.full(batch.num_rows, PROVIDERS.index(with_message[0]), np.uint8)
        values = self._column(batch, self._columns.platform, None)
        if not pa.types.is_dictionary(values.type):
            values = pc.dictionary_encode(as_text(values))
        known = [PLATFORMS.get(str(value).strip().lower()) for value in values.dictionary.to_pylist()]
        lookup = np.array([*(NO_PROVIDER if p is None else PROVIDERS.index(p) for p in known), NO_PROVIDER], np.uint8)
        codes = lookup[pc.fill_null(values.indices.cast(pa.int32()), len(known)).to_numpy(zero_copy_only=False)]
        verdicts[codes == NO_PROVIDER] = UNKNOWN_PLATFORM
        for code, provider in enumerate(PROVIDERS):
            if provider not in with_message:
                verdicts[codes == code] = NO_MESSAGE
        return np.asarray(codes, np.uint8)

    def _escaped(self, batch: Any, column: str, fallback: str, picked: Any) -> VarBytes:
        name = self._columns.others[column]
        try:
            return VarBytes(*escape_column(self._column(batch, name, picked), fallback))
        except FlashcastError as error:
            raise AudienceError(f"column {name!r}: {error.message}", remedy=error.remedy) from None

    def _column(self, batch: Any, name: str, picked: Any) -> Any:
        array = batch.column(batch.schema.get_field_index(name))
        return array if picked is None else array.take(picked)

    def _text(self, batch: Any, name: str) -> VarBytes:
        array = self._column(batch, name, None)
        try:
            return column_bytes(as_text(array))
        except pa.ArrowException:
            raise AudienceError(
                f"column {name!r} has the type {array.type}, which cannot be written as text",
                remedy="Give user ids and tokens as text.",
            ) from None
