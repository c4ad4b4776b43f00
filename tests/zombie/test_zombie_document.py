"""The document: what it says, who believes it, and that nothing else gets through."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zombie_data import KEY, NOW, OTHER, TRUSTED, document, normal, sealed, zombie

from flashcast.errors import InputError
from flashcast.zombie.bounds import ENVELOPE_BYTES_MAX
from flashcast.zombie.buckets import BUCKETS, bucket, cohort_of, cohort_order, cohorts_in
from flashcast.zombie.document import (
    Cohort,
    Document,
    Level,
    Refusal,
    RefusedError,
    file_name,
    json_schema,
    new_salt,
    terms,
)
from flashcast.zombie.envelope import SIGNED_PREFIX, Opened, admit, envelope, open_sealed, seal
from flashcast.zombie.keys import trusted

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
TERMS = st.builds(
    terms,
    app=st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True),
    level=st.sampled_from(["shielded", "zombie", "recovering"]),
    buckets=st.integers(0, BUCKETS),
    salt=st.from_regex(r"[A-Za-z0-9._~-]{1,64}", fullmatch=True),
    off=st.lists(st.just("*") | NAMES, min_size=1, max_size=5),
    writes=st.sampled_from(["send", "queue"]),
    drain_s=st.integers(0, 86_400),
    wait_s=st.integers(1, 3_600),
    poll_s=st.integers(5, 3_600),
    poll_jitter_s=st.integers(0, 3_600),
    message=st.just({}) | st.text(max_size=200).map(lambda text: {"*": text, "de": text}),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def reason(data: bytes) -> Refusal:
    with pytest.raises(RefusedError) as caught:
        open_sealed(data, TRUSTED)
    return caught.value.reason


def outcome(data: bytes, last: Opened | None = None) -> tuple[Refusal | None, Opened | None]:
    """Why a file is refused, or what is in it."""
    try:
        opened = open_sealed(data, TRUSTED)
        admit(opened, app=opened.document.app, cohort=opened.document.cohort, last=last, now=opened.document.not_before)
    except RefusedError as error:
        return error.reason, None
    return None, opened


def signed(payload: bytes) -> bytes:
    return envelope(payload, [(KEY.id, KEY.sign(SIGNED_PREFIX + payload))])


# --- What comes through ----------------------------------------------------------------------------


@given(TERMS, st.integers(1, 2**53 - 1), st.integers(1, 604_800))
def test_what_is_signed_is_read_as_it_was_said(said: Any, version: int, lasts_s: int) -> None:
    made = said.document(version=version, now=NOW, lasts_s=lasts_s)
    opened = open_sealed(seal(made, [OTHER, KEY]), TRUSTED)
    assert opened.document == made
    assert opened.document.terms == said
    assert opened.payload == made.payload
    assert opened.key == KEY.id


def test_a_document_is_small_plain_ascii() -> None:
    data = sealed(zombie(message={"*": "gleich zurück 🧟"}))
    assert len(data) < 1_500
    assert data.isascii()


def test_a_document_says_when_it_holds() -> None:
    made = zombie().document(version=1, now=NOW + 0.9, lasts_s=60, not_before=NOW + 30)
    assert (made.issued_at, made.not_before, made.expires_at) == (NOW, NOW + 30, NOW + 90)


def test_a_cohort_is_in_it_as_a_whole_or_not_at_all() -> None:
    made = [
        zombie(buckets=300).document(version=1, now=NOW, lasts_s=60, cohort=Cohort(index=index, of=8))
        for index in range(8)
    ]
    # 300 of 1,000 are 2.4 of 8 cohorts: three, rounded to the protective side.
    assert Counter(each.buckets for each in made) == {1_000: 3, 0: 5}


def test_files_are_named_after_app_and_cohort() -> None:
    assert file_name("shop") == "shop.json"
    assert file_name("shop", Cohort(index=3, of=8)) == "shop.3-of-8.json"


# --- What does not ----------------------------------------------------------------------------------


@given(st.binary(max_size=2_000))
def test_noise_is_refused_and_raises_nothing_else(data: bytes) -> None:
    assert reason(data) in (Refusal.MALFORMED, Refusal.OVERSIZED)


@given(JSON)
def test_any_json_is_refused(value: Any) -> None:
    assert reason(json.dumps(value).encode()) is Refusal.MALFORMED


@given(st.dictionaries(st.sampled_from(["payload", "signatures", "key", "sig"]), JSON))
def test_any_envelope_is_refused(value: Any) -> None:
    assert reason(json.dumps(value).encode()) in (Refusal.MALFORMED, Refusal.UNKNOWN_KEY)


@settings(max_examples=300)
@given(st.data())
def test_a_genuine_file_with_some_bytes_changed_says_the_same_or_is_refused(data: Any) -> None:
    made, true = document(), bytearray(sealed())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(true) - 1))
        match data.draw(st.sampled_from(["change", "drop", "insert"])):
            case "change":
                true[place] = data.draw(st.integers(0, 255))
            case "drop":
                del true[place : place + data.draw(st.integers(1, 40))]
            case _:
                true[place:place] = data.draw(st.binary(max_size=5))
    try:
        assert open_sealed(bytes(true), TRUSTED).document == made
    except RefusedError:
        pass


@settings(max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from([*Document.model_fields, "else"]), JSON | st.integers(-1, 2_000) | st.text(max_size=70)
    )
)
def test_a_signed_document_with_any_fields_is_within_its_bounds_or_refused(changes: dict[str, Any]) -> None:
    said = json.loads(document().payload) | changes
    refused, read = outcome(signed(json.dumps(said).encode()))
    assert refused in (None, Refusal.INVALID, Refusal.UNSUPPORTED)
    if read is not None:
        assert 0 <= read.document.buckets <= BUCKETS
        assert 1 <= read.document.version < 2**53
        assert 0 < read.document.expires_at - read.document.not_before <= 604_800


@given(st.binary(max_size=500))
def test_a_trusted_key_under_nonsense_gives_no_document(payload: bytes) -> None:
    assert reason(signed(payload)) is Refusal.INVALID


@pytest.mark.parametrize("depth", [10, 500, 5_000])
def test_a_heap_of_brackets_is_refused(depth: int) -> None:
    assert reason(b"[" * depth) is Refusal.MALFORMED
    assert reason(b'{"payload":' + b"[" * depth + b"]" * depth + b"}") is Refusal.MALFORMED
    assert reason(signed(b'{"format":' + b"[" * depth + b"]" * depth + b"}")) is Refusal.INVALID


def test_a_number_of_ten_thousand_digits_is_refused() -> None:
    assert reason(b'{"payload":' + b"9" * 10_000 + b"}") is Refusal.MALFORMED
    assert reason(signed(b'{"format":' + b"9" * 10_000 + b"}")) is Refusal.INVALID
    assert reason(signed(b'{"format":1,"version":' + b"9" * 4_000 + b"}")) is Refusal.INVALID


@pytest.mark.parametrize(
    "more", [b'"x":{"a":1,"a":1}', b'"app":"shop"', b'"x":"\\ud800"', b'"x":' + b"[" * 100 + b"]" * 100, b'"x":NaN']
)
def test_what_parsers_disagree_about_is_refused_also_where_it_is_signed(more: bytes) -> None:
    payload = document().payload[:-1] + b"," + more + b"}"
    with pytest.raises(RefusedError) as refused:
        open_sealed(envelope(payload, [(KEY.id, KEY.sign(SIGNED_PREFIX + payload))]), TRUSTED)
    assert refused.value.reason is Refusal.INVALID


def test_what_is_too_large_is_not_even_parsed() -> None:
    assert reason(b"[" * (ENVELOPE_BYTES_MAX + 1)) is Refusal.OVERSIZED


def test_a_refusal_never_repeats_what_a_stranger_wrote() -> None:
    said = json.loads(document().payload) | {"level": "<script>alert(1)</script>"}
    with pytest.raises(RefusedError) as caught:
        open_sealed(signed(json.dumps(said).encode()), TRUSTED)
    assert "script" not in str(caught.value)
    assert str(caught.value).startswith("level: ")


def test_one_trusted_signature_among_strangers_is_enough() -> None:
    data = seal(document(), [OTHER, KEY])
    assert open_sealed(data, TRUSTED).key == KEY.id
    assert open_sealed(data, trusted([OTHER])).key == OTHER.id
    assert open_sealed(data, trusted([KEY, OTHER])).key in (KEY.id, OTHER.id)


@given(st.integers(0, 63), st.integers(0, 7))
def test_no_signature_with_a_bit_turned_is_believed(byte: int, bit: int) -> None:
    payload = document().payload
    raw = bytearray(KEY.sign(SIGNED_PREFIX + payload))
    raw[byte] ^= 1 << bit
    assert reason(envelope(payload, [(KEY.id, bytes(raw))])) is Refusal.BAD_SIGNATURE


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_a_reader_never_goes_back(versions: list[int]) -> None:
    last = None
    for version in versions:
        refused, opened = outcome(sealed(version=version), last)
        if last is not None and version < last.document.version:
            assert refused is Refusal.REPLAYED
        else:
            assert refused is None
            last = opened


# --- What operators are told ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"buckets": 1_001}, "buckets: "),
        ({"off": ["Feed"]}, "off.0: "),
        ({"bukkets": 5}, "bukkets: there is no such field"),
        ({"message": {"*": "x" * 2_001}}, "message.*: has more than 2000 bytes of UTF-8"),
        ({"message": {"de": "\ud800"}}, "no Unicode"),
        ({"cohorts": [8, 8]}, "cohorts: names a split twice"),
        ({"level": "panic"}, "level: "),
    ],
)
def test_terms_that_are_wrong_are_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        zombie(**changes)
    assert told in str(caught.value)


@pytest.mark.parametrize("lasts_s", [0, -1, 604_801])
def test_no_document_is_without_an_end(lasts_s: int) -> None:
    with pytest.raises(InputError, match="expires_at is not within"):
        document(lasts_s=lasts_s)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (normal(buckets=10), "level is normal"),
        (normal(off=["feed"]), "level is normal"),
        (zombie(off=[], keep=[]), "off is empty"),
        (zombie(off=["feed"]), 'unless off has "*"'),
        (zombie(message={"de": "gleich"}), 'no text under "*"'),
    ],
)
def test_what_nobody_can_have_meant_is_not_signed(said: Any, told: str) -> None:
    with pytest.raises(InputError) as caught:
        seal(document(said), [KEY])
    assert told in str(caught.value)


def test_a_document_that_is_too_large_is_not_signed() -> None:
    with pytest.raises(InputError, match="16384 is the most"):
        sealed(zombie(message={"*": "x", **{f"x{i}": "y" * 1_000 for i in range(20)}}))


@pytest.mark.parametrize("keys", [[], [KEY, KEY]])
def test_a_document_is_signed_by_different_keys(keys: list[Any]) -> None:
    with pytest.raises(InputError, match="1 to 8 different keys"):
        seal(document(), keys)


def test_changing_terms_checks_them_again() -> None:
    assert zombie().changed(level=Level.NORMAL, buckets=0, off=(), keep=()) == normal()
    with pytest.raises(InputError, match="buckets"):
        zombie().changed(buckets=-1)


def test_the_schema_knows_every_field_and_needs_no_other() -> None:
    schema = json_schema()
    said = json.loads(document(zombie(message={"*": "x"}, manual={"by": "ada", "until": NOW})).payload)
    assert set(schema["properties"]) == set(Document.model_fields)
    assert set(said) <= set(schema["properties"])
    assert set(schema["required"]) == {
        "format", "app", "version", "not_before", "expires_at", "level", "buckets", "salt",
    }  # fmt: skip
    assert all("description" in field for field in schema["properties"].values())


# --- Buckets ----------------------------------------------------------------------------------------


def test_buckets_are_even() -> None:
    counts = Counter(bucket("s1", f"user-{number}") for number in range(100_000))
    # 100 are expected in each; six standard deviations either side.
    assert len(counts) == BUCKETS
    assert min(counts.values()) > 40
    assert max(counts.values()) < 160


def test_another_salt_hits_other_users_first() -> None:
    first, second = ({u for u in range(10_000) if bucket(salt, str(u)) < 100} for salt in ("a", "b"))
    # Independent draws of a tenth share a hundredth: 100 of 10,000.
    assert 40 < len(first & second) < 160


@given(st.from_regex(r"[A-Za-z0-9]{1,8}", fullmatch=True), st.integers(2, 100), st.integers(0, 1_000))
def test_cohorts_enter_one_after_another_and_cover_at_least_the_share(salt: str, of: int, buckets: int) -> None:
    inside = cohorts_in(salt, of, buckets)
    assert inside <= cohorts_in(salt, of, min(buckets + 1, 1_000))
    assert buckets / 1_000 <= len(inside) / of < buckets / 1_000 + 1 / of
    assert sorted(cohort_order(salt, of)) == list(range(of))


def test_cohorts_are_nearly_of_one_size() -> None:
    counts = Counter(cohort_of("shop", str(number), 8) for number in range(40_000))
    assert set(counts) == set(range(8))
    assert max(counts.values()) - min(counts.values()) < 600


def test_a_user_id_that_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="lone surrogate"):
        bucket("s1", "\ud800")


def test_a_new_salt_is_a_salt_and_another_each_time() -> None:
    assert zombie(salt=new_salt()).salt != zombie(salt=new_salt()).salt


def test_an_envelope_is_what_the_reference_says() -> None:
    outer = json.loads(sealed())
    payload = base64.urlsafe_b64decode(outer["payload"] + "=" * (-len(outer["payload"]) % 4))
    assert payload == document().payload
    assert KEY.public.verifies(
        base64.urlsafe_b64decode(outer["signatures"][0]["sig"] + "=="), b"flashcast.zombie\0" + payload
    )
