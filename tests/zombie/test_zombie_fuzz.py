"""The parsers of envelope, document and keys under fuzz: one kind of error, and no more memory than the bounds allow.

Most of what is changed at random in a signed file stops at its signature. So what is behind that is fuzzed as well,
with payloads that are changed first and signed by a trusted key then: a signer with a bug, or a key that was stolen.
"""

from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zombie_data import KEY, NOW, OTHER, TRUSTED, document, key, sealed, zombie

from flashcast.errors import CredentialError, InputError
from flashcast.zombie.bounds import (
    ENVELOPE_BYTES_MAX,
    FEATURES_MAX,
    LIFETIME_S_MAX,
    LOCALES_MAX,
    PAYLOAD_BYTES_MAX,
    SIGNATURES_MAX,
    VERSION_MAX,
)
from flashcast.zombie.client.core import Action, Core, News
from flashcast.zombie.client.http import HttpResponse
from flashcast.zombie.document import Document, Refusal, RefusedError
from flashcast.zombie.envelope import SIGNED_PREFIX, envelope, open_sealed, seal
from flashcast.zombie.keys import PublicKey, SigningKey, trusted
from flashcast.zombie.servers.routing import load_routing

MEMORY_BYTES_MAX = 12 << 20
"""Of Python's objects while a file of the largest size is read; 5,000 wrong features with their faults are 6 MB."""
FULL = document(
    zombie(
        message={"*": "gleich zurück 🧟", "de-AT": "x"}, manual={"by": "ada", "until": NOW}, cohorts=[8, 4],
        off=["*", "feed"],
    )
)  # fmt: skip
ODD: list[bytes] = [
    b"null", b"true", b"-0", b"-1", b"1.5", b"1e400", b"-1e400", b"NaN", b"Infinity", b"9" * 4_300, b"9" * 4_301,
    b"1" + b"0" * 300, b"9007199254740992", b"1e2", b'""', b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\u0000"', b'"\x00"',
    b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xff"', b"[]", b"{}", b"[[]]", b"[" * 2_000 + b"]" * 2_000, b"[" * 9_000,
    b'{"a":' * 2_000 + b"1" + b"}" * 2_000, b'"' + b"x" * 9_000 + b'"', b"[" + b"0," * 4_000 + b"0]",
    b'{"__proto__":{"buckets":0},"__class__":1}', b"'x'", b"tru", b"",
]  # fmt: skip
"""Values that have been the end of some parser."""


def signed(payload: bytes) -> bytes:
    return envelope(payload, [(KEY.id, KEY.sign(SIGNED_PREFIX + payload))])


def read(data: bytes) -> Document | Refusal:
    """The document, or why it is refused; every other error is a failure of the test."""
    try:
        found = open_sealed(data, TRUSTED).document
    except RefusedError as error:
        told, reason = error.message, error.reason
    else:
        _check_bounds(found)
        return found
    # What a stranger wrote is not repeated at length.
    assert len(told) < 300
    return reason


def _check_bounds(found: Document) -> None:
    assert 0 <= found.buckets <= 1_000
    assert 1 <= found.version <= VERSION_MAX
    assert 0 < found.expires_at - found.not_before <= LIFETIME_S_MAX
    assert max(len(found.off), len(found.keep)) <= FEATURES_MAX and len(found.message) <= LOCALES_MAX
    # Whatever came in can be told again: no lone surrogate hides in any text.
    assert found.payload.isascii()
    json.dumps(found.model_dump(mode="json"), ensure_ascii=False).encode()


@st.composite
def mutated(draw: st.DrawFn, genuine: bytes) -> bytes:
    """Genuine bytes with parts changed, dropped, doubled, moved, or replaced by what was the end of some parser."""
    data = bytearray(genuine)
    for _ in range(draw(st.integers(1, 5))):
        place, length = draw(st.integers(0, len(data))), draw(st.integers(1, 60))
        part = bytes(data[place : place + length])
        match draw(st.sampled_from(["change", "drop", "double", "move", "insert", "odd", "cut"])):
            case "change":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "drop":
                del data[place : place + length]
            case "double":
                data[place:place] = part
            case "move":
                del data[place : place + length]
                other = draw(st.integers(0, len(data)))
                data[other:other] = part
            case "insert":
                data[place:place] = draw(st.sampled_from([b",", b":", b'"', b"\\", b"{", b"]", b"0", b"\xef\xbb\xbf"]))
            case "odd":
                data[place : place + length] = draw(st.sampled_from(ODD))
            case _:
                del data[place:]
    return bytes(data)


@settings(max_examples=500)
@given(mutated(FULL.payload))
def test_a_payload_that_was_changed_before_it_was_signed_is_within_bounds_or_refused(payload: bytes) -> None:
    assert isinstance(read(signed(payload)), Document) or read(signed(payload)) in (
        Refusal.INVALID, Refusal.UNSUPPORTED, Refusal.OVERSIZED,
    )  # fmt: skip


@settings(max_examples=500)
@given(mutated(seal(FULL, [OTHER, KEY])))
def test_an_envelope_that_was_changed_says_the_same_or_is_refused(data: bytes) -> None:
    found = read(data)
    assert found == FULL or isinstance(found, Refusal)


@given(st.sampled_from(sorted(Document.model_fields)), st.sampled_from(ODD))
def test_any_odd_value_in_any_field_is_within_bounds_or_refused(name: str, value: bytes) -> None:
    said = {field: json.dumps(told).encode() for field, told in json.loads(FULL.payload).items()} | {name: value}
    read(signed(b"{" + b",".join(f'"{field}":'.encode() + told for field, told in said.items()) + b"}"))


@given(st.sampled_from(["payload", "signatures"]), st.sampled_from(ODD))
def test_any_odd_value_in_an_envelope_is_refused(name: str, value: bytes) -> None:
    said = {field: json.dumps(told).encode() for field, told in json.loads(sealed()).items()} | {name: value}
    found = read(b"{" + b",".join(f'"{field}":'.encode() + told for field, told in said.items()) + b"}")
    assert isinstance(found, Refusal)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=90) | st.just(KEY.id),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["key", "sig", "x"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.lists(JSON, max_size=SIGNATURES_MAX - 1), st.integers(0, SIGNATURES_MAX))
def test_strange_signatures_beside_a_good_one_are_passed_over(strange: list[Any], place: int) -> None:
    outer = json.loads(sealed())
    outer["signatures"] = [*strange[:place], *outer["signatures"], *strange[place:]]
    assert read(json.dumps(outer).encode()) == document()


@pytest.mark.parametrize(
    "twice",
    [
        lambda text: text.replace('{"payload":', '{"payload":"e30","payload":', 1),
        lambda text: text[:-1] + ',"signatures":[]}',
        lambda text: text[:-1] + ',"payload":"e30"}',
        lambda text: text.replace('{"key":', '{"key":"","\\u006bey":', 1),
    ],
)
def test_an_envelope_with_a_key_that_stands_twice_is_refused(twice: Callable[[str], str]) -> None:
    """Parsers disagree about which of the two counts."""
    assert read(twice(sealed().decode()).encode()) is Refusal.MALFORMED


@pytest.mark.parametrize("more", [b',"version":9}', b',"format":1}', b',"manual":{"by":"a","by":"b","until":1}}'])
def test_a_document_with_a_key_that_stands_twice_is_refused(more: bytes) -> None:
    assert read(signed(document().payload[:-1] + more)) is Refusal.INVALID


# --- How much it costs -------------------------------------------------------------------------------


def _filled(head: bytes, unit: bytes, tail: bytes, bytes_max: int) -> bytes:
    return head + unit * ((bytes_max - len(head) - len(tail)) // len(unit)) + tail


LARGEST = {
    "brackets": _filled(b"", b"[", b"", ENVELOPE_BYTES_MAX),
    "lists": _filled(b'{"payload":[', b"[],", b"0]}", ENVELOPE_BYTES_MAX),
    "objects": _filled(b'{"signatures":[', b"{},", b"0]}", ENVELOPE_BYTES_MAX),
    "texts": _filled(b'{"payload":"","signatures":[', b'"",', b"0]}", ENVELOPE_BYTES_MAX),
    "escapes": _filled(b'{"payload":"', b"\\u0041", b'"}', ENVELOPE_BYTES_MAX),
    "digits": _filled(b'{"payload":', b"9", b"}", ENVELOPE_BYTES_MAX),
    "numbers": _filled(b'{"payload":[', b"1e300,", b"0]}", ENVELOPE_BYTES_MAX),
    "blanks": _filled(b"{", b" ", b"}", ENVELOPE_BYTES_MAX),
    "keys": b"{" + b",".join(b'"%d":0' % n for n in range(2_500)) + b"}",
    "too large": b"{" * (100 * ENVELOPE_BYTES_MAX),
    "signed brackets": signed(_filled(b'{"format":', b"[", b"", PAYLOAD_BYTES_MAX)),
    "signed lists": signed(_filled(b'{"format":1,"off":[', b"[],", b"0]}", PAYLOAD_BYTES_MAX)),
    "signed texts": signed(_filled(b'{"format":1,"off":[', b'"",', b"0]}", PAYLOAD_BYTES_MAX)),
    "signed digits": signed(_filled(b'{"format":1,"version":', b"9", b"}", PAYLOAD_BYTES_MAX)),
    "signed unknown": signed(FULL.payload[:-1] + b',"x":' + _filled(b"[", b"{},", b"0]}", 12_000)),
    "many signatures": json.dumps(
        {"payload": "", "signatures": [{"key": KEY.id, "sig": "A" * 86}] * SIGNATURES_MAX}
    ).encode(),
}


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_files_cost_little_memory(name: str) -> None:
    read(sealed())
    tracemalloc.start()
    try:
        read(LARGEST[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_BYTES_MAX


def test_no_file_makes_a_reader_verify_more_than_eight_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = 0
    verifies = PublicKey.verifies

    def counted(self: PublicKey, signature: bytes, message: bytes) -> bool:
        nonlocal verified
        verified += 1
        return verifies(self, signature, message)

    monkeypatch.setattr(PublicKey, "verifies", counted)
    wrong = [(KEY.id, bytes(64))]
    assert read(envelope(document().payload, wrong * SIGNATURES_MAX)) is Refusal.BAD_SIGNATURE
    assert verified == SIGNATURES_MAX
    assert read(envelope(document().payload, wrong * (SIGNATURES_MAX + 1))) is Refusal.MALFORMED
    assert verified == SIGNATURES_MAX


# --- A client that is given it -----------------------------------------------------------------------

GOOD = {f"good {version}": (sealed(version=version), version) for version in (8, 9)}
BAD = {
    "forged": envelope(document(version=20).payload, [(KEY.id, OTHER.sign(SIGNED_PREFIX + document().payload))]),
    "replayed": sealed(version=3),
    "another of this version": sealed(zombie(incident="inc-2"), version=7),
    "expired": sealed(version=21, now=NOW - 10**5),
    "too early": sealed(version=22, now=NOW + 10**5),
    "wrong key": seal(document(version=23), [OTHER]),
    "wrong app": sealed(zombie(app="bank"), version=24),
    "signed for something else": envelope(FULL.payload, [(KEY.id, KEY.sign(FULL.payload))]),
    "bare": document(version=26).payload,
    "cut short": sealed(version=27)[:-30],
    "garbage": b"\x00\xff garbage",
    "empty": b"",
    "too large": sealed(version=28) + b" " * ENVELOPE_BYTES_MAX,
    "brackets": b"[" * 20_000,
}  # fmt: skip


@settings(max_examples=200)
@given(st.lists(st.sampled_from(sorted(BAD)) | mutated(sealed(version=30)), min_size=1, max_size=12), st.data())
def test_a_client_goes_on_with_the_last_good_document_and_then_fails_open(bad: list[Any], data: st.DataObject) -> None:
    core = Core(app="shop", url="http://cdn", trusted=TRUSTED, random=lambda: 0.5, now=float(NOW))
    assert core.answered(HttpResponse(200, {}, sealed(version=7)), NOW).news is News.CHANGED
    for number, one in enumerate(bad):
        file = BAD[one] if isinstance(one, str) else one
        if not isinstance(one, str) and isinstance(read(one), Document):
            continue  # what was changed did not matter, and it is genuine
        polled = core.answered(HttpResponse(200, {}, file), NOW + number)
        assert polled.news is News.REFUSED and not polled.save
        assert core.last is not None and core.last.version == 7
        assert core.decide("u1", "feed", NOW + number).action is not Action.SEND
        assert core.decide("u1", "payments", NOW + number).action is Action.SEND
    assert core.last is not None
    end = core.last.expires_at
    assert core.decide("u1", "feed", end - 0.001).action is not Action.SEND
    assert core.decide("u1", "feed", end).action is Action.SEND


# --- Keys and routing --------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.text(max_size=200) | st.binary(max_size=80).map(lambda raw: base64.b64encode(raw).decode()))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    for kind in (PublicKey, SigningKey):
        told = ""
        try:
            kind.parse(text)
        except (InputError, CredentialError) as error:
            told = str(error)
        # It may be a private key that was put into the wrong place.
        assert len(text) < 20 or text not in told


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=64))
def test_any_32_bytes_are_no_key_or_verify_nothing_that_it_did_not_sign(raw: bytes, signature: bytes) -> None:
    try:
        public = PublicKey(raw)
    except InputError:
        return
    with pytest.raises(RefusedError):
        open_sealed(envelope(document().payload, [(public.id, signature)]), trusted([public, key("third")]))


@pytest.mark.parametrize("content", [b"a = " + b"[" * 5_000, b"\xff", b"app = 5", b"routes = 1", b"[[[", b""])
def test_a_routing_file_that_is_none_is_told(tmp_path: Any, content: bytes) -> None:
    (tmp_path / "routing.toml").write_bytes(content)
    with pytest.raises(InputError):
        load_routing(tmp_path / "routing.toml")
