"""Fields, escaping, rendering, sizes and the stored form of templates."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashcast.campaign.template import (
    FieldSyntaxError,
    apns_body,
    body_lengths,
    fcm_body,
    json_escape,
    longest_body_bytes,
    parse_text,
    payload_bytes_max,
    payload_lengths,
    render,
    template_from_json,
    template_to_json,
    too_long,
    uncounted_bytes,
)
from flashcast.limits import BODY_BYTES_MAX
from flashcast.model import TOKEN_COLUMN, Field, Hole, Provider, RequestTemplate

AWKWARD = '"\\\x00\x08\t\n\x0b\x0c\r\x1b\x1f\x7f\x80\xa0\u2028\u2029\ufeff\uffff🏈\U0010ffff/{}|é'
TEXT = st.text(st.one_of(st.sampled_from(AWKWARD), st.characters(exclude_categories=["Cs"])), max_size=30)
FIELDS = st.builds(
    Field,
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}|"), min_size=1).filter(
        lambda t: t == t.strip()
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}")).filter(lambda t: t == t.strip()),
)
PARTS = st.lists(st.one_of(TEXT, FIELDS), max_size=5)
TOKEN = "a1" * 32


def written(parts: list[str | Field]) -> str:
    """The parts as a person would write them."""
    return "".join(
        part.replace("{{", "{{{{") if isinstance(part, str) else f"{{{{{part.column}|{part.fallback}}}}}"
        for part in _joined(parts)
    )


def _joined(parts: list[str | Field]) -> list[str | Field]:
    """Neighbouring literals made one: two braces that meet there are a literal '{{' too."""
    joined: list[str | Field] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def apns(payload: dict[str, Any], fields: dict[Field, int], push_type: str = "alert") -> RequestTemplate:
    return RequestTemplate(Provider.APNS, "v", (("apns-push-type", push_type),), apns_body(payload, fields))


def fcm(message: dict[str, Any], fields: dict[Field, int]) -> RequestTemplate:
    return RequestTemplate(Provider.FCM, "v", (), fcm_body(message, fields))


@given(TEXT)
def test_an_escaped_text_is_the_inside_of_a_json_string(text: str) -> None:
    assert json.loads(b'"' + json_escape(text) + b'"') == text


def test_a_lone_surrogate_is_refused_because_utf8_cannot_express_it() -> None:
    with pytest.raises(UnicodeEncodeError):
        json_escape("\ud800")


@given(PARTS)
def test_text_is_split_into_the_literals_and_fields_it_was_written_with(parts: list[str | Field]) -> None:
    assert list(parse_text(written(parts))) == [part for part in _joined(parts) if part != ""]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("{{name}}", (Field("name", ""),)),
        ("{{ name | my friend }}", (Field("name", "my friend"),)),
        ("{{a|b|c}}", (Field("a", "b|c"),)),
        ("{{{id}}}", ("{", Field("id", ""), "}")),
        ("{{{{id}}", ("{{id}}",)),
        ("a } b }} c { d", ("a } b }} c { d",)),
        ("", ()),
    ],
)
def test_fields_are_read_as_documented(text: str, parts: tuple[str | Field, ...]) -> None:
    assert parse_text(text) == parts


@pytest.mark.parametrize("text", ["{{name", "{{}}", "{{ | x}}", "{{a{b}}", "x {{a|{{b}}}}"])
def test_a_field_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(FieldSyntaxError):
        parse_text(text)


@given(st.dictionaries(TEXT.filter(lambda t: "{{" not in t), PARTS, min_size=1, max_size=4), TEXT, st.booleans())
def test_a_rendered_body_says_exactly_what_was_written(
    message: dict[str, list[str | Field]], value: str, to_fcm: bool
) -> None:
    message.pop("token", None)
    message["sure"] = ["x"]
    fields: dict[Field, int] = {}
    values = {key: written(parts) for key, parts in message.items()}
    template = fcm(values, fields) if to_fcm else apns(values, fields)
    filled = {field: value or field.fallback for field in fields}
    body = render(template, [json_escape(filled[field]) for field in fields], TOKEN.encode())
    said = {
        key: "".join(part if isinstance(part, str) else filled[part] for part in parts)
        for key, parts in message.items()
    }
    assert json.loads(body) == ({"message": {"token": TOKEN, **said}} if to_fcm else said)


def test_nested_values_numbers_and_empty_tables_are_compact_json() -> None:
    payload = {"a": [1, -2.5, True, {"b": {}, "c": []}, "x{{f}}"], "d": {}}
    fields: dict[Field, int] = {}
    body = render(apns(payload, fields), [b"F"], b"")
    assert body == b'{"a":[1,-2.5,true,{"b":{},"c":[]},"xF"],"d":{}}'


def test_bytes_and_holes_alternate_even_where_fields_touch() -> None:
    fields: dict[Field, int] = {}
    body = fcm({"data": {"x": "{{a}}{{b}}{{a}}"}}, fields).body
    assert [isinstance(part, Hole) for part in body] == [index % 2 == 1 for index in range(len(body))]
    assert [part.field for part in body if isinstance(part, Hole)] == [TOKEN_COLUMN, 0, 1, 0]
    assert len(body) % 2 == 1


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8), st.integers(0, 60), st.booleans())
def test_lengths_are_those_of_the_rendered_bytes(rows: list[tuple[str, str]], token_bytes: int, to_fcm: bool) -> None:
    fields: dict[Field, int] = {}
    message = {"title": "é {{a|x}} {{b}} {{a|x}}", "body": '"{{b}}"'}
    template = fcm(message, fields) if to_fcm else apns(message, fields)
    cells = [[json_escape(text) for text in row] for row in rows]
    lengths = [np.array([len(row[index]) for row in cells], dtype=np.uint32) for index in range(2)]
    tokens = np.full(len(rows), token_bytes, dtype=np.int64)
    bodies = [render(template, row, b"t" * token_bytes) for row in cells]
    assert body_lengths(template, lengths, tokens).tolist() == [len(body) for body in bodies]
    longest = longest_body_bytes(template, [int(each.max()) for each in lengths], token_bytes)
    assert longest >= max(map(len, bodies))
    if to_fcm:
        contents = [json.loads(body)["message"] for body in bodies]
        for content in contents:
            del content["token"]
        counted = [len(json.dumps(each, ensure_ascii=False, separators=(",", ":")).encode()) for each in contents]
    else:
        counted = [len(body) for body in bodies]
    assert payload_lengths(template, lengths, tokens).tolist() == counted


@pytest.mark.parametrize(("push_type", "most"), [("alert", 4_096), ("voip", 5_120)])
def test_the_first_byte_over_the_apns_bound_is_too_long(push_type: str, most: int) -> None:
    template = apns({"x": "{{f}}"}, {}, push_type)
    constant = longest_body_bytes(template, [0])
    assert payload_bytes_max(template) == most
    lengths = np.array([most - constant, most - constant + 1])
    assert too_long(template, [lengths], np.full(2, 64)).tolist() == [False, True]


def test_the_fcm_bound_leaves_out_the_token_but_the_frame_does_not() -> None:
    template = fcm({"data": {"x": "{{f}}"}}, {})
    content = len('{"data":{"x":""}}')
    assert longest_body_bytes(template, [0]) - uncounted_bytes(template) == content
    lengths = np.array([4_096 - content, 4_096 - content + 1, 0, 0])
    rest = len(render(template, [b""], b""))
    tokens = np.array([4_096, 32, BODY_BYTES_MAX - rest, BODY_BYTES_MAX - rest + 1])
    assert too_long(template, [lengths], tokens).tolist() == [False, True, False, True]


@given(PARTS, TEXT, st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=3))
def test_a_template_survives_the_manifest_exactly(
    parts: list[str | Field], variant: str, headers: list[tuple[str, str]]
) -> None:
    body = fcm_body({"data": {"x": written(parts)}}, {})
    template = RequestTemplate(Provider.FCM, variant, tuple(headers), body)
    assert template_from_json(json.loads(json.dumps(template_to_json(template)))) == template
