"""An audience held against a campaign: its columns, and every row's message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from flashcast.errors import AudienceError
from flashcast.model import Provider

if TYPE_CHECKING:
    from flashcast.audience.columns import ColumnMap
    from flashcast.audience.source import AudienceSource, Reader
    from flashcast.campaign.faults import Fault, Key
    from flashcast.campaign.file import Campaign
    from flashcast.campaign.load import Examination
    from flashcast.campaign.preview import RowSurvey


def survey_audience(
    examination: Examination,
    source: AudienceSource,
    given: Mapping[str, str],
    rows_shown: int,
    progress: Callable[[int, int | None], None] | None = None,
) -> tuple[Examination, RowSurvey | None]:
    """The faults that only the audience shows, and, if there are none at all, its rows surveyed.

    ``given`` is what ``--map`` says, our name to theirs. Raises AudienceError and EnvironmentFault where the audience
    cannot be read or has no tokens.
    """
    from flashcast.audience.columns import resolve
    from flashcast.audience.source import open_audience

    campaign = examination.campaign
    assert campaign is not None
    wanted = campaign.columns_needed()
    several = len(campaign.sections()) > 1
    theirs = {given.get(name, name) for name in wanted} | set(given.values())
    with closing(open_audience(source, text=theirs)) as reader:
        resolve(reader.columns, given, (), platform_needed=several, user_id_needed=None)
        examination = examination.with_faults(_column_faults(campaign, reader.columns, given, source.location))
        if examination.faults:
            return examination, None
        columns = resolve(reader.columns, given, wanted, platform_needed=several, user_id_needed=None)
        survey = _survey(campaign, reader, columns, rows_shown, progress)
    if survey is None:
        raise AudienceError(f"{source.location} has no rows", remedy="Give an audience with at least one device.")
    return examination.with_faults(_length_faults(campaign, survey)), survey


def _survey(
    campaign: Campaign,
    reader: Reader,
    columns: ColumnMap,
    rows_shown: int,
    progress: Callable[[int, int | None], None] | None,
) -> RowSurvey | None:
    from flashcast.campaign.compile import compile_messages
    from flashcast.campaign.preview import RowSurvey

    survey = RowSurvey(compile_messages(campaign), rows_shown)
    done = 0
    for batch in reader.batches(columns.selected):
        _survey_batch(survey, batch, columns, done + 1)
        done += batch.num_rows
        if progress is not None:
            progress(done, reader.total)
    return survey if done else None


def _column_faults(
    campaign: Campaign, present: Sequence[str], given: Mapping[str, str], location: str
) -> Iterator[Fault]:
    """One fault for each column that is missing, at the first place that uses it."""
    from flashcast.campaign.faults import Fault
    from flashcast.campaign.variants import column_uses

    uses: dict[str, list[Key]] = {}
    for provider, section in campaign.sections().items():
        for key, column in column_uses(provider, section):
            uses.setdefault(column, []).append(key)
    for column, places in uses.items():
        if not _has(present, given, column):
            close = get_close_matches(column, present, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(present)}"
            times = f" (used in {len(places)} places)" if len(places) > 1 else ""
            yield Fault(places[0], f"{location} has no column {column!r}{times}; {hint}")


def _has(present: Sequence[str], given: Mapping[str, str], column: str) -> bool:
    from flashcast.audience.columns import resolve

    try:
        resolve(present, given, (column,), platform_needed=False, user_id_needed=None)
    except AudienceError:
        return False
    return True


def _length_faults(campaign: Campaign, survey: RowSurvey) -> Iterator[Fault]:
    from flashcast.campaign.faults import Fault
    from flashcast.campaign.variants import variants_of

    for provider, section in campaign.sections().items():
        for number, variant in enumerate(variants_of(provider, section)):
            told = survey.told_too_long(provider, number)
            if told is not None:
                yield Fault(variant.place, told)


def _survey_batch(survey: RowSurvey, batch: Any, columns: ColumnMap, first: int) -> None:
    """``first`` is the number of the batch's first row, from 1."""
    import numpy as np
    import pyarrow as pa

    table = pa.Table.from_batches([batch])
    numbers = np.arange(first, first + table.num_rows, dtype=np.int64)
    for provider in survey.compiled.templates:
        mask = _of_provider(table, columns.platform, provider)
        if mask is None:
            _add(survey, provider, table, columns, numbers)
        elif mask.any():
            _add(survey, provider, table.filter(pa.array(mask)), columns, numbers[mask])


def _of_provider(table: Any, platform: str | None, provider: Provider) -> Any:
    """Which rows are of ``provider``, bool[rows]; None for all, where the audience does not tell."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from flashcast.audience.columns import PLATFORMS

    if platform is None:
        return None
    names = [name for name, owner in PLATFORMS.items() if owner is provider]
    told = pc.utf8_lower(pc.utf8_trim_whitespace(table[platform].cast(pa.large_string())))
    return pc.is_in(told, value_set=pa.array(names, pa.large_string())).to_numpy(zero_copy_only=False)


def _add(survey: RowSurvey, provider: Provider, table: Any, columns: ColumnMap, numbers: Any) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from flashcast.campaign.columns import escape_column
    from flashcast.campaign.preview import Rows
    from flashcast.digest import fingerprints

    if not table.num_rows:
        return
    given = table[columns.token].cast(pa.large_string())
    # The seal writes APNs tokens in lower case before it hashes them.
    tokens, token_offsets = escape_column(pc.utf8_lower(given) if provider is Provider.APNS else given, "")
    ids = np.empty(table.num_rows, dtype=np.uint64)
    fingerprints(tokens, token_offsets, ids)
    if columns.user_id is not None:
        users, user_offsets = escape_column(table[columns.user_id], "")
        by_user = np.empty_like(ids)
        fingerprints(users, user_offsets, by_user)
        ids = np.where(np.diff(user_offsets) > 0, by_user, ids)
    others = {ours: table[theirs] for ours, theirs in columns.others.items()}
    survey.add(provider, Rows(others, ids, np.diff(token_offsets).astype(np.int64), numbers))
