"""Sealing: an audience and a campaign become an immutable snapshot.

    reader -> screen -> render -> admit -> shards
    (a thread)                             (a thread)

Rows go through in batches. Each is judged by itself (screen.py), rendered, and then admitted in order (builder.py),
where duplicates fall. Nothing is held but the open shards and the tables that know which tokens were seen. Reading and
writing have a thread each; the kernels release the GIL, so that two cores are kept busy.

Everything that may not happen to a message later is found here: a token with a wrong character, a column that is not
there, a message that is too long. Sending never checks a row again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from flashcast.audience.ahead import read_ahead
from flashcast.audience.builder import ShardBuilder
from flashcast.audience.columns import ColumnMap, resolve
from flashcast.audience.drops import PROVIDERS, DropsWriter
from flashcast.audience.faults import cannot_write, nothing_left
from flashcast.audience.folder import building, publish, sync_file, write_synced
from flashcast.audience.manifest import MANIFEST, Counts, FieldFacts, FileFacts, Manifest, Options, ShardFacts
from flashcast.audience.screen import Screen, columns_wanted, used_fields
from flashcast.audience.shards import file_sha256
from flashcast.audience.snapshot import DROPPED, Snapshot, open_snapshot
from flashcast.audience.source import AudienceSource, Reader, open_audience
from flashcast.audience.suppression import Suppression, read_suppression
from flashcast.campaign.compile import CompiledMessages, compile_messages
from flashcast.campaign.file import Campaign
from flashcast.campaign.template import template_to_json
from flashcast.errors import InputError, SnapshotError
from flashcast.limits import SHARD_ROWS_MAX

Progress = Callable[[int, int | None], None]
"""Called with the rows read so far and how many there are, if that is known."""


@dataclass(frozen=True)
class SealOptions:
    """What becomes of the rows.

    ``columns`` maps our column names to the audience's (``--map``). ``suppress`` is a file of user ids or tokens
    to leave out; ``holdout`` the share (0 to 1) of users set aside; ``one_device_per_user`` keeps one row per user
    id, the first, or the one with the greatest ``prefer``. ``limit`` ends sealing after so many rows are in.
    ``drop_too_large`` leaves messages out that are too long, instead of refusing the campaign. ``force`` replaces an
    existing snapshot.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    suppress: str | None = None
    holdout: float = 0.0
    one_device_per_user: bool = False
    prefer: str | None = None
    limit: int | None = None
    drop_too_large: bool = False
    force: bool = False
    shard_rows: int = SHARD_ROWS_MAX

    def check(self) -> None:
        """Raises InputError for values that make no sense."""
        if not 0 <= self.holdout < 1:
            raise InputError(
                f"--holdout {self.holdout}: must be at least 0 and below 1", remedy="0.05 sets 5 % aside."
            )
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: must be at least 1")
        if self.prefer is not None and not self.one_device_per_user:
            raise InputError("--prefer chooses among a user's devices", remedy="Add --one-per-user.")
        if not 1 <= self.shard_rows <= SHARD_ROWS_MAX:
            raise InputError(f"shard_rows is {self.shard_rows}; must be 1 to {SHARD_ROWS_MAX}")


def seal(
    campaign: Campaign | CompiledMessages,
    audience: AudienceSource | str | Path,
    out: Path,
    options: SealOptions | None = None,
    progress: Progress | None = None,
) -> Snapshot:
    """Seals ``audience`` for ``campaign`` into the folder ``out`` and opens it.

    ``out`` appears whole or not at all. If it is there already: the same snapshot is left as it is, another
    one is replaced with ``options.force`` only. Raises CampaignError, AudienceError, InputError for what a person
    must mend (exit code 2), EnvironmentFault for a full disk or an unreachable store (3).
    """
    options = options or SealOptions()
    options.check()
    compiled = campaign if isinstance(campaign, CompiledMessages) else compile_messages(campaign)
    source = audience if isinstance(audience, AudienceSource) else AudienceSource(str(audience))
    if out.exists() and not options.force and not (out / MANIFEST).exists():
        raise InputError(
            f"{out} exists and is not a snapshot", remedy="Choose another --out; --force would replace it."
        )
    suppression = read_suppression(options.suppress, source.cache) if options.suppress is not None else None
    with building(out) as folder:
        sealing = _Sealing(compiled, source, options, folder, suppression, progress)
        try:
            manifest = sealing.run()
            if not _already_there(out, manifest, force=options.force):
                publish(folder, out)
        except OSError as error:
            raise cannot_write(error, out, rows=sealing.rows_read, needed=sealing.bytes_needed()) from error
    # What decoding left behind is not needed while sending.
    pa.default_memory_pool().release_unused()
    return open_snapshot(out, verify=False)


class _Sealing:
    """One run of `seal`, with what must be known if it fails half-way."""

    def __init__(
        self,
        compiled: CompiledMessages,
        source: AudienceSource,
        options: SealOptions,
        folder: Path,
        suppression: Suppression | None,
        progress: Progress | None,
    ) -> None:
        self._compiled = compiled
        self._source = source
        self._options = options
        self._folder = folder
        self._suppression = suppression
        self._progress = progress
        self.rows_read = 0
        self.total: int | None = None
        self._builder: ShardBuilder | None = None

    def run(self) -> Manifest:
        """Reads, writes the shards, the dropped rows and the manifest; returns the manifest."""
        wanted = columns_wanted(self._compiled)
        spill = self._folder / "spill"
        theirs = {self._options.columns.get(name, name) for name in wanted} | set(self._options.columns.values())
        reader = open_audience(self._source, text=theirs, prefer=self._options.prefer, spill=spill)
        with closing(reader):
            self.total = reader.total
            columns = resolve(
                reader.columns,
                self._options.columns,
                wanted,
                platform_needed=len(self._compiled.templates) > 1,
                user_id_needed="--one-per-user" if self._options.one_device_per_user else None,
            )
            drops = DropsWriter(self._folder / DROPPED)
            self._builder = self._new_builder()
            with closing(self._builder) as builder, closing(drops):
                self._pass_rows(reader, columns, builder, drops)
                shards = builder.finish()
        shutil.rmtree(spill, ignore_errors=True)
        if not shards:
            raise nothing_left(self.rows_read, drops.counts)
        return self._write_manifest(shards, drops)

    def bytes_needed(self) -> int:
        """About how large the snapshot would have become; the known part of it where the total is not known."""
        return 0 if self._builder is None else self._builder.bytes_for(self.total or 0)

    def _new_builder(self) -> ShardBuilder:
        number = len(self._compiled.fields)
        used = {
            code: [index in used_fields(self._compiled, provider) for index in range(number)]
            for code, provider in enumerate(PROVIDERS)
        }
        limit = self._options.limit
        expected = self.total if limit is None else min(limit, self.total or limit)
        return ShardBuilder(
            self._folder,
            used,
            shard_rows=self._options.shard_rows,
            one_per_user=self._options.one_device_per_user,
            limit=limit,
            expected=expected,
        )

    def _pass_rows(self, reader: Reader, columns: ColumnMap, builder: ShardBuilder, drops: DropsWriter) -> None:
        screen = Screen(
            self._compiled,
            columns,
            self._suppression,
            holdout=self._options.holdout,
            drop_too_large=self._options.drop_too_large,
        )
        codes = [code for code, provider in enumerate(PROVIDERS) if provider in self._compiled.templates]
        with closing(read_ahead(reader.batches(columns.selected))) as batches:
            for batch in batches:
                screened = screen.screen(batch, self.rows_read)
                rendered = {code: screen.render(batch, screened, code) for code in codes}
                looked_at = builder.add(screened, rendered)
                drops.add(
                    self.rows_read, screened.verdicts[:looked_at], screened.codes, screened.tokens, screened.users
                )
                self.rows_read += looked_at
                if self._progress is not None:
                    self._progress(self.rows_read, self.total)
                if looked_at < batch.num_rows or builder.rows == self._options.limit:
                    return

    def _write_manifest(self, shards: tuple[ShardFacts, ...], drops: DropsWriter) -> Manifest:
        dropped = self._folder / DROPPED
        sync_file(dropped)
        written = file_sha256(dropped)
        compiled, options = self._compiled, self._options
        manifest = Manifest(
            name=compiled.name,
            window_s=compiled.window_s,
            unknown_policy=compiled.unknown_policy,
            pace=compiled.pace,
            fields=tuple(FieldFacts(column=f.column, fallback=f.fallback) for f in compiled.fields),
            templates={
                provider: tuple(template_to_json(t) for t in templates)
                for provider, templates in compiled.templates.items()
            },
            options=Options(
                holdout=options.holdout,
                one_device_per_user=options.one_device_per_user,
                prefer=options.prefer,
                limit=options.limit,
            ),
            counts=Counts(
                read=self.rows_read,
                kept={provider: sum(s.rows for s in shards if s.provider is provider) for provider in PROVIDERS},
                dropped={reason.value: number for reason, number in drops.counts.items() if number},
            ),
            shards=shards,
            dropped=FileFacts(file=DROPPED, rows=drops.rows, bytes=written.bytes, sha256=written.sha256),
        ).sealed()
        write_synced(self._folder / MANIFEST, manifest.to_bytes())
        return manifest


def _already_there(out: Path, manifest: Manifest, *, force: bool) -> bool:
    """Whether ``out`` is this very snapshot, whole. Raises InputError if it is another and may not be replaced."""
    if not out.exists():
        return False
    try:
        with open_snapshot(out) as there:
            same = there.digest == manifest.digest
    except SnapshotError as error:
        if force:
            return False
        raise InputError(
            f"{out} exists and is damaged: {error.message}",
            remedy="Replace it with --force, or choose another --out.",
        ) from None
    if not same and not force:
        raise InputError(
            f"{out} exists and is another snapshot", remedy="Replace it with --force, or choose another --out."
        )
    return same
