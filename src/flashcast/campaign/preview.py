"""What the messages will look like, and how long the longest will be.

Two sources of values: made-up ones and fallbacks, where there is no audience yet; or the audience's rows,
batch by batch, all of which are measured and a few of which are shown. The device token is never shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashcast.campaign.columns import choose_variants, escape_column
from flashcast.campaign.compile import CompiledMessages
from flashcast.campaign.template import (
    json_escape,
    longest_body_bytes,
    payload_bytes_max,
    payload_lengths,
    render,
    too_long,
    uncounted_bytes,
)
from flashcast.model import Field, Provider, RequestTemplate

SHOWN_TOKEN = b"<token>"


@dataclass(frozen=True, slots=True)
class Preview:
    """One rendered message. ``row`` counts the audience's rows from 1; None where its values are made up."""

    provider: Provider
    variant: str
    row: int | None
    headers: tuple[tuple[str, str], ...]
    body: str
    payload_bytes: int
    payload_bytes_max: int


@dataclass(slots=True)
class Longest:
    """How long one variant's messages get. ``row`` and ``first_too_long`` count from 1."""

    payload_bytes: int = 0
    row: int = 0
    rows: int = 0
    too_long: int = 0
    first_too_long: int = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one provider. ``columns`` are pyarrow arrays by the campaign's names for them.

    ``ids`` uint64[rows] fingerprints for the A/B arms, ``token_lengths`` int64[rows] in bytes, ``numbers``
    int64[rows] places in the audience from 1.
    """

    columns: Mapping[str, Any]
    ids: NDArray[np.uint64]
    token_lengths: NDArray[np.int64]
    numbers: NDArray[np.int64]


def made_up(compiled: CompiledMessages) -> list[Preview]:
    """Every variant once, filled with the fallbacks, or ``<column>`` where a field has none."""
    values = [json_escape(each.fallback or f"<{each.column}>") for each in compiled.fields]
    return [_preview(template, values, None) for templates in compiled.templates.values() for template in templates]


def room_bytes(template: RequestTemplate, fields: Sequence[Field]) -> int:
    """Bytes that all fields of ``template`` together may take before the provider's bound is reached."""
    constant = longest_body_bytes(template, [0] * len(fields)) - uncounted_bytes(template)
    return payload_bytes_max(template) - constant


def _preview(template: RequestTemplate, values: Sequence[bytes], row: int | None) -> Preview:
    body = render(template, values, SHOWN_TOKEN)
    counted = len(body) - uncounted_bytes(template)
    if template.provider is Provider.FCM:
        counted -= len(SHOWN_TOKEN)
    return Preview(
        template.provider, template.variant, row, template.headers, body.decode(), counted, payload_bytes_max(template)
    )


@dataclass(slots=True)
class RowSurvey:
    """Takes an audience's rows, measures all and keeps some to show.

    ``rows_shown`` previews are kept of each provider: first one of every variant, then the rows as they come.
    """

    compiled: CompiledMessages
    rows_shown: int = 3
    previews: list[Preview] = field(default_factory=list)
    longest: dict[tuple[Provider, int], Longest] = field(default_factory=dict)
    empty: dict[str, int] = field(default_factory=dict)
    """Rows that leave a field without fallback empty, by column."""

    def add(self, provider: Provider, rows: Rows) -> None:
        """Surveys rows of ``provider``. Raises AudienceError for a column that is no text."""
        chooser = self.compiled.choosers[provider]
        column = None if chooser.column is None else rows.columns[chooser.column]
        variants = choose_variants(chooser, column, rows.ids)
        used = {part.field for t in self.compiled.templates[provider] for part in t.body if not isinstance(part, bytes)}
        escaped = {
            index: escape_column(rows.columns[each.column], each.fallback)
            for index, each in enumerate(self.compiled.fields)
            if index in used
        }
        lengths = {index: np.diff(offsets).astype(np.int64) for index, (_, offsets) in escaped.items()}
        for index in escaped:
            column_name = self.compiled.fields[index].column
            count = int((lengths[index] == 0).sum())
            if count:
                self.empty[column_name] = self.empty.get(column_name, 0) + count
        none = np.zeros(rows.ids.size, dtype=np.int64)
        by_field = [lengths.get(index, none) for index in range(len(self.compiled.fields))]
        for number in np.unique(variants).tolist():
            self._measure(provider, number, np.flatnonzero(variants == number), by_field, rows)
        self._show(provider, variants, escaped, rows)

    def _measure(
        self, provider: Provider, number: int, at: NDArray[np.intp], lengths: list[NDArray[np.int64]], rows: Rows
    ) -> None:
        template = self.compiled.templates[provider][number]
        mine, tokens = [each[at] for each in lengths], rows.token_lengths[at]
        counted = payload_lengths(template, mine, tokens)
        longest = self.longest.setdefault((provider, number), Longest())
        longest.rows += at.size
        top = int(counted.argmax())
        if counted[top] > longest.payload_bytes:
            longest.payload_bytes, longest.row = int(counted[top]), int(rows.numbers[at[top]])
        over = np.flatnonzero(too_long(template, mine, tokens))
        if over.size:
            longest.too_long += over.size
            longest.first_too_long = longest.first_too_long or int(rows.numbers[at[over[0]]])

    def _show(
        self,
        provider: Provider,
        variants: NDArray[np.uint8],
        escaped: Mapping[int, tuple[NDArray[np.uint8], NDArray[np.uint32]]],
        rows: Rows,
    ) -> None:
        shown = {preview.row for preview in self.previews if preview.provider is provider}
        _, firsts = np.unique(variants, return_index=True)
        for at in (*sorted(firsts.tolist()), *range(min(variants.size, self.rows_shown))):
            number = int(rows.numbers[at])
            if len(shown) < self.rows_shown and number not in shown:
                template = self.compiled.templates[provider][variants[at]]
                values = [_cell(escaped, index, at) for index in range(len(self.compiled.fields))]
                self.previews.append(_preview(template, values, number))
                shown.add(number)

    def told_too_long(self, provider: Provider, number: int) -> str | None:
        """What to say of a variant with messages that are too long, None where there are none."""
        longest = self.longest.get((provider, number))
        if longest is None or not longest.too_long:
            return None
        most = payload_bytes_max(self.compiled.templates[provider][number])
        told = f"{longest.payload_bytes:,} bytes; {provider} takes {most:,}"
        if longest.too_long == 1:
            return f"row {longest.first_too_long} makes a message of {told}"
        return (
            f"{longest.too_long:,} rows make messages that are too long, the first is row "
            f"{longest.first_too_long:,}; the longest, of row {longest.row:,}, has {told}"
        )


def _cell(escaped: Mapping[int, tuple[NDArray[np.uint8], NDArray[np.uint32]]], index: int, row: int) -> bytes:
    if index not in escaped:
        return b""
    data, offsets = escaped[index]
    return data[int(offsets[row]) : int(offsets[row + 1])].tobytes()
