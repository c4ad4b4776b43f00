"""Reading an audience: every format, names of columns, SQL, and what is said of input that is wrong."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audience_data import APNS_ONLY, BOTH, apns_token, campaign, device, devices, fcm_token, write

from flashcast.audience.seal import SealOptions, seal
from flashcast.audience.snapshot import Snapshot
from flashcast.audience.source import AudienceSource, open_audience
from flashcast.errors import AudienceError
from flashcast.model import Provider

Rows = list[dict[str, Any]]


def write_csv(path: Path, rows: Rows, delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_gzip(path: Path, rows: Rows, write_plain: Callable[[Path, Rows], object] = write_csv) -> None:
    write_plain(path.with_suffix(""), rows)
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    path.with_suffix("").unlink()


def write_json(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_arrow_file(path: Path, rows: Rows) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def write_arrow_stream(path: Path, rows: Rows) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


WRITERS: dict[str, Callable[[Path, Rows], object]] = {
    "a.parquet": write,
    "a.pq": write,
    "a.csv": write_csv,
    "a.tsv": lambda path, rows: write_csv(path, rows, "\t"),
    "semicolons.csv": lambda path, rows: write_csv(path, rows, ";"),
    "a.csv.gz": write_gzip,
    "a.jsonl": write_json,
    "a.jsonl.gz": lambda path, rows: write_gzip(path, rows, write_json),
    "a.ndjson": write_json,
    "a.arrow": write_arrow_file,
    "a.feather": write_arrow_file,
    "a.arrows": write_arrow_stream,
    "with [brackets] and 'quotes'.csv": write_csv,
}


def sealed(tmp_path: Path, source: AudienceSource | Path, text: str = BOTH, **options: Any) -> Snapshot:
    return seal(campaign(text), source, tmp_path / "out", SealOptions(**options))


def users(snapshot: Snapshot) -> list[str]:
    return [shard.user_ids.text(row) for shard in snapshot.shards for row in range(shard.rows)]


def read(source: AudienceSource, *columns: str) -> list[tuple[Any, ...]]:
    reader = open_audience(source, text=columns)
    rows = [tuple(row.values()) for batch in reader.batches(columns) for row in batch.to_pylist()]
    reader.close()
    return rows


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_seals_to_the_same_snapshot(tmp_path: Path, name: str) -> None:
    rows = devices(60)
    expected = seal(campaign(), write(tmp_path / "plain.parquet", rows), tmp_path / "expected").digest
    WRITERS[name](tmp_path / name, rows)
    with sealed(tmp_path, tmp_path / name) as snapshot:
        assert snapshot.digest == expected


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_can_be_filtered_and_queried(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, devices(60))
    source = AudienceSource(str(tmp_path / name), where="locale = 'fr'")
    assert len(read(source, "user_id")) == 20
    twice = AudienceSource(
        str(tmp_path / name), sql="SELECT a.user_id FROM audience a JOIN audience b USING (token) -- twice;"
    )
    assert len(read(twice, "user_id")) == 60


def test_a_given_format_wins_over_the_extension(tmp_path: Path) -> None:
    write_csv(tmp_path / "export.txt", devices(4))
    with pytest.raises(AudienceError, match=r"the extension \.txt does not tell the format") as caught:
        sealed(tmp_path, tmp_path / "export.txt")
    assert "--format parquet|csv|jsonl|arrow" in caught.value.remedy
    assert sealed(tmp_path, AudienceSource(str(tmp_path / "export.txt"), format="CSV")).rows == 4
    with pytest.raises(AudienceError, match="--format xlsx: unknown"):
        sealed(tmp_path, AudienceSource(str(tmp_path / "export.txt"), format="xlsx"))


def test_globs_and_folders_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "day=1"
    folder.mkdir()
    for part in (2, 0, 1):
        write(folder / f"part-{part}.parquet", devices(30)[part * 10 : part * 10 + 10])
    (folder / "_SUCCESS").touch()
    expected = [(f"user-{n}",) for n in range(30)]
    for location in (
        folder,
        folder / "part-*.parquet",
        tmp_path / "**" / "*.parquet",
        tmp_path / "day=*" / "part-?.parquet",
    ):
        assert read(AudienceSource(str(location)), "user_id") == expected
    assert read(AudienceSource(f"file://{folder}/part-1.parquet"), "user_id") == expected[10:20]


def test_files_of_one_audience_must_agree(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", devices(2))
    write(tmp_path / "b.parquet", [{"token": apns_token(9), "platform": "ios"}])
    with pytest.raises(AudienceError, match=r"b\.parquet has no column .*'first_name'"):
        sealed(tmp_path, AudienceSource(str(tmp_path / "*.parquet")))
    write_csv(tmp_path / "c.csv", devices(2))
    with pytest.raises(AudienceError, match="several formats: csv, parquet"):
        sealed(tmp_path, AudienceSource(str(tmp_path / "[abc].*")))
    write_csv(tmp_path / "d.csv", [{"x": 1}])
    with pytest.raises(AudienceError, match=r"d\.csv has another header"):
        sealed(tmp_path, AudienceSource(str(tmp_path / "*.csv")))


@pytest.mark.parametrize(
    ("user", "platform", "token"),
    [
        ("uid", "os", "device_token"),
        ("User-ID", "Platform", "Push Token"),
        ("customerId", "deviceOS", "registration_id"),
        ("user", "provider", "fcmToken"),
    ],
)
def test_columns_go_by_many_names(tmp_path: Path, user: str, platform: str, token: str) -> None:
    rows = [
        {user: f"u{n}", platform: device(n)["platform"], token: device(n)["token"], "locale": "en", "first_name": ""}
        for n in range(4)
    ]
    with sealed(tmp_path, write(tmp_path / "a.parquet", rows)) as snapshot:
        assert users(snapshot) == ["u0", "u2", "u1", "u3"]


def test_map_says_which_column_is_which(tmp_path: Path) -> None:
    rows = [
        {"who": "w", "what": "ios", "where": apns_token(0), "token": "not this", "sprache": "de", "vorname": "Jo"}
    ]
    columns = {"user_id": "who", "platform": "what", "token": "where", "locale": "sprache", "first_name": "vorname"}
    with sealed(tmp_path, write(tmp_path / "a.parquet", rows), columns=columns) as snapshot:
        assert snapshot.shards[0].tokens.text(0) == apns_token(0)
        assert snapshot.templates[Provider.APNS][snapshot.shards[0].variants[0]].variant == "de"
    with pytest.raises(AudienceError, match="--map token=wo: there is no column 'wo'"):
        sealed(tmp_path, tmp_path / "a.parquet", columns={"token": "wo"})


def test_two_columns_that_could_be_the_token_are_not_guessed_between(tmp_path: Path) -> None:
    rows = [{"device_token": apns_token(0), "push_token": apns_token(2)}]
    with pytest.raises(AudienceError, match="several columns could be the token: device_token, push_token") as caught:
        sealed(tmp_path, write(tmp_path / "a.parquet", rows), APNS_ONLY)
    assert "--map token=device_token" in caught.value.remedy


def test_a_missing_column_is_told_with_what_was_tried_and_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"user_id": "a", "adress": "x"}])
    with pytest.raises(
        AudienceError, match="no column for the device token: tried token, device_token, push_token"
    ) as caught:
        sealed(tmp_path, path, APNS_ONLY)
    assert "user_id, adress" in caught.value.remedy
    with pytest.raises(AudienceError, match="the user id, which --one-per-user needs"):
        sealed(tmp_path, write(tmp_path / "b.parquet", [{"token": "x"}]), APNS_ONLY, one_device_per_user=True)


def test_a_template_field_without_a_column_is_told(tmp_path: Path) -> None:
    rows = [{key: value for key, value in device(0).items() if key != "first_name"}]
    with pytest.raises(
        AudienceError, match="the campaign uses the column 'first_name', which the audience lacks"
    ) as caught:
        sealed(tmp_path, write(tmp_path / "a.parquet", rows))
    assert "user_id, platform, token, locale" in caught.value.remedy
    assert "--map first_name=COLUMN" in caught.value.remedy


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize("where", [None, "age > 30"])
def test_text_of_ids_and_fields_is_kept_to_the_letter(tmp_path: Path, name: str, where: str | None) -> None:
    rows = [{"user_id": "007", "token": apns_token(0), "first_name": "2024-01-05T10:00:00Z", "age": 40}]
    WRITERS[name](tmp_path / name, rows)
    text = APNS_ONLY.replace('"Hi"', '"{{first_name}}"')
    with sealed(tmp_path, AudienceSource(str(tmp_path / name), where=where), text) as snapshot:
        assert users(snapshot) == ["007"]
        assert snapshot.shards[0].fields[0].bytes(0) == b"2024-01-05T10:00:00Z"


def test_columns_of_other_types_are_written_as_text(tmp_path: Path) -> None:
    table = pa.table(
        {
            "user_id": pa.array([7, 2**60]),
            "token": pa.array([apns_token(0), apns_token(2)], pa.large_string()).dictionary_encode(),
            "points": pa.array([1.5, None]),
            "flag": pa.array([True, False]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    text = APNS_ONLY.replace('"Hi"', '"{{points|none}} {{flag}}"')
    with sealed(tmp_path, tmp_path / "a.parquet", text) as snapshot:
        assert users(snapshot) == ["7", str(2**60)]
        assert [[f.text(row) for f in snapshot.shards[0].fields] for row in (0, 1)] == [
            ["1.5", "true"],
            ["none", "false"],
        ]


def test_a_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    rows = [{"token": [apns_token(0)], "user_id": "a"}]
    with pytest.raises(AudienceError, match="column 'token' has the type list"):
        sealed(tmp_path, write(tmp_path / "a.parquet", rows), APNS_ONLY)


def test_a_column_that_first_appears_in_the_last_line_of_json_is_seen(tmp_path: Path) -> None:
    rows = [{"token": apns_token(2 * n)} for n in range(300)]
    write_json(tmp_path / "a.jsonl", [*rows, {"token": apns_token(9_998), "user_id": "late"}])
    with sealed(tmp_path, tmp_path / "a.jsonl", APNS_ONLY) as snapshot:
        assert users(snapshot)[-1] == "late"


def test_a_csv_value_may_hold_line_breaks_and_quotes(tmp_path: Path) -> None:
    rows = [device(0, first_name='a\n"b",;\r\nc'), device(2)]
    write_csv(tmp_path / "a.csv", rows)
    assert read(AudienceSource(str(tmp_path / "a.csv")), "first_name")[0] == ('a\n"b",;\r\nc',)


def test_a_list_of_users_is_joined_with_a_table_of_devices(tmp_path: Path) -> None:
    write(tmp_path / "devices.parquet", devices(100))
    (tmp_path / "users.csv").write_text("user_id\nuser-3\nuser-4\nuser-400\n")
    source = AudienceSource(
        str(tmp_path / "users.csv"),
        sql="SELECT d.* FROM audience JOIN devices AS d USING (user_id)",
        tables={"devices": str(tmp_path / "devices.parquet")},
        where="platform = 'ios'",
    )
    with sealed(tmp_path, source) as snapshot:
        assert users(snapshot) == ["user-4"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"sql": "SELEC 1"}, "--sql cannot be run: Parser Error"),
        ({"sql": "SELECT nope FROM audience"}, '"nope" not found'),
        ({"sql": "SELECT * FROM nowhere"}, "nowhere does not exist"),
        ({"where": "nope = 1"}, '--where cannot be run: .*"nope" not found'),
        ({"sql": "SELECT CAST(token AS INTEGER) AS token FROM audience"}, "--sql cannot be run: Conversion Error"),
        ({"tables": {"d": "x.csv"}}, "there is no --sql"),
        ({"sql": "SELECT 1", "tables": {"no good": "a.csv"}}, "'no good' cannot be a table's name"),
        ({"sql": "SELECT 1", "tables": {"audience": "a.csv"}}, "cannot be a table's name"),
        ({"sql": "SELECT 1", "tables": {"d": "/nowhere.csv"}}, "no audience at /nowhere.csv"),
    ],
)
def test_faults_in_sql_are_told_without_tokens(tmp_path: Path, source: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "a.parquet", devices(3))
    with pytest.raises(AudienceError, match=said) as caught:
        sealed(tmp_path, AudienceSource(str(path), **source), APNS_ONLY)
    assert apns_token(0)[:32] not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_prefer_names_a_column_that_must_exist(tmp_path: Path) -> None:
    with pytest.raises(AudienceError, match="--prefer seen: there is no such column"):
        sealed(tmp_path, write(tmp_path / "a.parquet", devices(3)), one_device_per_user=True, prefer="seen")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.arrows"])
def test_a_binary_file_that_is_cut_short_is_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, devices(200))
    whole = path.read_bytes()
    for size in (10, len(whole) // 2):
        path.write_bytes(whole[:size])
        for where in (None, "true"):
            with pytest.raises(AudienceError, match=f"{name} is cut short, damaged"):
                sealed(tmp_path, AudienceSource(str(path), where=where))
    assert [found.name for found in tmp_path.iterdir()] == [name]


def test_a_parquet_file_damaged_in_the_middle_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", devices(5_000))
    whole = path.read_bytes()
    path.write_bytes(whole[:1_000] + bytes(200_000) + whole[201_000:])
    with pytest.raises(AudienceError, match=r"a\.parquet is cut short, damaged"):
        sealed(tmp_path, path)


def test_csv_by_the_name_of_parquet_is_told(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.parquet", devices(20))
    with pytest.raises(AudienceError, match="not of its format") as caught:
        sealed(tmp_path, tmp_path / "a.parquet")
    assert "--format" in caught.value.remedy


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl", "a.arrow"])
def test_an_empty_file_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(AudienceError, match=f"{name} is empty"):
        sealed(tmp_path, tmp_path / name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("token,user_id\n{t},a\n{t},b,c\n", "line 3 is malformed: it has 3 values where the header names 2"),
        ("token,user_id\n{t},a\n{t}\n", "line 3 is malformed: it has 1 values where the header names 2"),
        ('token,user_id\n{t},"a\n', "line 2 is malformed"),
        ("token,token\n{t},a\n", "names token twice"),
        ("token,,x\n{t},a,b\n", "a column without a name"),
        ("\n\n", "has no header"),
    ],
)
@pytest.mark.parametrize("where", [None, "true"])
def test_malformed_csv_is_told_with_its_line_but_not_its_content(
    tmp_path: Path, content: str, said: str, where: str | None
) -> None:
    (tmp_path / "a.csv").write_text(content.replace("{t}", apns_token(0)))
    with pytest.raises(AudienceError, match=said) as caught:
        sealed(tmp_path, AudienceSource(str(tmp_path / "a.csv"), where=where), APNS_ONLY)
    assert apns_token(0)[:20] not in str(caught.value)


def test_csv_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"token,first_name\n" + apns_token(0).encode() + b",Ren\xe9\n")
    with pytest.raises(AudienceError, match=r"a\.csv"):
        sealed(tmp_path, tmp_path / "a.csv", APNS_ONLY.replace('"Hi"', '"{{first_name}}"'))
    (tmp_path / "b.csv").write_bytes(b"token,pr\xe9nom\n")
    with pytest.raises(AudienceError, match=r"b\.csv is not UTF-8"):
        sealed(tmp_path, tmp_path / "b.csv", APNS_ONLY)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + f"token,user_id\n{apns_token(0)},a\n".encode())
    with sealed(tmp_path, tmp_path / "a.csv", APNS_ONLY) as snapshot:
        assert users(snapshot) == ["a"]


@pytest.mark.parametrize("bad", ['{"token": ', '{"token": }', "nonsense", "[1, 2]", '"text"', "{} {}"])
@pytest.mark.parametrize("at", [0, 3])
def test_malformed_json_is_told_with_its_line_but_not_its_content(tmp_path: Path, bad: str, at: int) -> None:
    lines = [json.dumps({"token": apns_token(2 * n)}) for n in range(5)]
    lines[at] = bad
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(AudienceError, match=rf"a\.jsonl: line {at + 1} is no JSON object") as caught:
        sealed(tmp_path, tmp_path / "a.jsonl", APNS_ONLY)
    assert apns_token(0)[:20] not in str(caught.value)


@pytest.mark.parametrize("where", [None, "true"])
def test_a_fault_deep_in_a_long_file_is_told_as_well(tmp_path: Path, where: str | None) -> None:
    lines = [f"{n:064x},{n}" for n in range(300_000)]
    lines[250_000] += ",surplus"
    (tmp_path / "a.csv").write_text("token,user_id\n" + "\n".join(lines) + "\n")
    with pytest.raises(
        AudienceError, match="line 250002 is malformed: it has 3 values where the header names 2"
    ) as caught:
        sealed(tmp_path, AudienceSource(str(tmp_path / "a.csv"), where=where), APNS_ONLY)
    assert f"{250_000:064x}"[:32] not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(AudienceError, match=r"no audience at .*nowhere\.parquet"):
        sealed(tmp_path, tmp_path / "nowhere.parquet")
    with pytest.raises(AudienceError, match="no file matches"):
        sealed(tmp_path, AudienceSource(str(tmp_path / "*.parquet")))
    (tmp_path / "folder").mkdir()
    with pytest.raises(AudienceError, match="no file with rows in it"):
        sealed(tmp_path, tmp_path / "folder")


def test_parquet_without_sql_is_read_without_duckdb(tmp_path: Path) -> None:
    import subprocess
    import sys

    write(tmp_path / "a.parquet", devices(3))
    program = (
        "import sys; from flashcast.audience.source import AudienceSource, open_audience\n"
        f"reader = open_audience(AudienceSource({str(tmp_path / 'a.parquet')!r}))\n"
        "assert sum(batch.num_rows for batch in reader.batches(['token'])) == 3\n"
        "assert 'duckdb' not in sys.modules and 'obstore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_fcm_tokens_may_come_from_a_csv_with_colons(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [device(1), device(3)])
    with sealed(tmp_path, tmp_path / "a.csv") as snapshot:
        assert snapshot.shards[0].tokens.text(0) == fcm_token(1)
