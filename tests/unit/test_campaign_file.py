"""The campaign file: every fault at once, each with its line; and what a sound one compiles to."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashcast.campaign.compile import compile_messages
from flashcast.campaign.faults import CampaignFileError
from flashcast.campaign.file import HOLD_S_DEFAULT, Campaign
from flashcast.campaign.lifecycle import State
from flashcast.campaign.load import examine_bytes, load_campaign, parse_campaign
from flashcast.campaign.records import GuardTerms, LaunchRecord, Stage
from flashcast.campaign.template import render
from flashcast.campaign.terms import launch_terms
from flashcast.errors import CampaignError, ExitCode
from flashcast.limits import FIELDS_MAX
from flashcast.model import Field, Provider, UnknownPolicy
from flashcast.zombie.document import Writes

EXAMPLES = Path(__file__).parents[2] / "examples"
APNS = '[apns]\ntopic = "com.example.app"\nalert.body = "x"\n'
FCM = '[fcm]\nnotification.body = "x"\n'

BACKGROUND = 'name = "x"\n[apns]\ntopic = "a"\npush_type = "background"\n'
LIVE = 'name = "x"\n[apns]\ntopic = "a.push-type.liveactivity"\npush_type = "liveactivity"\n'


def parse(text: str) -> Campaign:
    return parse_campaign(textwrap.dedent(text).encode(), "c.toml")


def faults(text: str) -> list[str]:
    with pytest.raises(CampaignFileError) as caught:
        parse(text)
    assert caught.value.exit_code is ExitCode.USAGE
    return [fault.told("c.toml") for fault in caught.value.faults]


def bodies(text: str, provider: Provider) -> dict[str, dict[str, object]]:
    compiled = compile_messages(parse(text))
    values = [b"<%s>" % field.column.encode() for field in compiled.fields]
    return {each.variant: json.loads(render(each, values, b"T")) for each in compiled.templates[provider]}


def test_every_fault_is_told_at_once_with_its_line() -> None:
    assert faults(
        """\
        name = "x"
        window_s = "60"
        windw = 1

        [pace]
        apns = 0

        [apns]
        topic = "com.example.{{app}}"
        priority = 7
        badge = "{{n}}"
        [apns.alert]
        body = "{{name"
        [apns.custom]
        aps = 1
        day = 2026-02-08

        [[apns.variants]]
        when = "de"

        [fcm]
        ttl_s = 99_999_999
        [fcm.data]
        score = 3
        from = "me"
        """
    ) == [
        'c.toml:2: window_s: "60" is not a number',
        "c.toml:3: windw: unknown key; did you mean window_s?",
        "c.toml:6: pace.apns: 0 is not more than 0",
        "c.toml:9: apns.topic: 'com.example.{{app}}' has a field, but this value is the same for every row",
        "c.toml:10: apns.priority: 7 is not one of 10, 5, 1",
        'c.toml:11: apns.badge: "{{n}}" has a field, which can only stand in a text; here stands a whole number',
        "c.toml:13: apns.alert.body: '{{name' is not closed by '}}'; write '{{{{' for a literal '{{'",
        "c.toml:15: apns.custom.aps: is Apple's own dictionary; its further keys go under 'aps' beside 'custom'",
        'c.toml:16: apns.custom.day: JSON has no dates; write it as a text, "2026-02-08", or as a number',
        "c.toml:19: apns.variants[0].when: needs apns.variant_by, the column to compare with",
        "c.toml:22: fcm.ttl_s: 99999999 is more than 2419200",
        'c.toml:24: fcm.data.score: 3 is not a text, and FCM takes nothing else here; write "3"',
        "c.toml:25: fcm.data.from: is a key that FCM reserves; choose another name",
    ]


SINGLE = {
    # Nothing to send
    'name = "x"': "c.toml:1: no message: write an [apns] table, an [fcm] table, or both",
    APNS: "c.toml:1: name: missing",
    'name = ""\n' + FCM: "c.toml:1: name: ",
    'name = "x"\n[fcm]': "c.toml:2: fcm.notification: missing",
    'name = "x"\n[fcm]\nnotification = {}': "c.toml:3: fcm.notification: says nothing",
    'name = "x"\n[apns]\ntopic = "a"': "c.toml:2: apns.alert: missing",
    'name = "x"\n[apns]\nalert.body = "a"': "c.toml:2: apns.topic: missing",
    # Types
    'name = "x"\nunknown_policy = "retry"\n' + FCM: 'c.toml:2: unknown_policy: "retry" is not one of drop, resend',
    'name = "x"\nwindow_s = inf\n' + FCM: "c.toml:2: window_s: inf is not a finite number",
    'name = "x"\napns = 3': "c.toml:2: apns: 3 is not a table",
    'name = "x"\n' + APNS + "collapse-id = 'x'": "c.toml:5: apns.collapse-id: unknown key; did you mean collapse_id?",
    'name = "x"\n' + APNS + "badge = true": "c.toml:5: apns.badge: true is not a whole number",
    # Headers
    'name = "x"\n' + APNS + f"collapse_id = '{'x' * 65}'": "c.toml:5: apns.collapse_id: has 65 bytes; APNs allows 64",
    'name = "x"\n' + APNS + "collapse_id = 'é'": "c.toml:5: apns.collapse_id: 'é' travels as a header",
    'name = "x"\n' + APNS + "collapse_id = 'a\tb'": "c.toml:5: apns.collapse_id: 'a\\tb' travels as a header",
    'name = "x"\n' + APNS + "collapse_id = '{{id}}'": "c.toml:5: apns.collapse_id: '{{id}}' has a field",
    'name = "x"\n' + APNS + "push_type = '{{id}}'": 'c.toml:5: apns.push_type: "{{id}}" is not one of alert',
    'name = "x"\n' + APNS + "push_type = 'voip'": "c.toml:3: apns.topic: 'com.example.app' must end in '.voip'",
    'name = "x"\n' + APNS + "expiration = 2026-02-08T18:30:00": "c.toml:5: apns.expiration: 2026-02-08T18:30:00 has no",
    'name = "x"\n' + APNS + "expiration = -1": "c.toml:5: apns.expiration: -1 is not within 0 and 2592000 seconds",
    # What Apple documents of background pushes, Live Activities and sounds
    BACKGROUND + "priority = 10": "c.toml:5: apns.priority: 10 is an error",
    BACKGROUND + "content_available = false": "c.toml:5: apns.content_available: must be true",
    BACKGROUND + "badge = 0": "c.toml:5: apns.badge: a background push shows nothing",
    LIVE + "aps.event = 'update'": "c.toml:5: apns.aps.timestamp: missing",
    'name = "x"\n' + APNS + "volume = 0.5": "c.toml:5: apns.volume: is for a critical alert's sound",
    'name = "x"\n' + APNS + "badge = 1\naps.badge = 2": "c.toml:6: apns.aps.badge: is also set by badge",
    'name = "x"\n[apns]\ntopic = "a"\nalert.launch_image = "a"': "c.toml:4: apns.alert: says nothing",
    # FCM data
    'name = "x"\n' + FCM + 'data."google.x" = "1"': 'c.toml:4: fcm.data."google.x": is a key that FCM reserves',
    'name = "x"\n' + FCM + 'data."gcm.n" = "1"': 'c.toml:4: fcm.data."gcm.n": is a key that FCM reserves',
    'name = "x"\n' + FCM + 'data.message_type = "1"': "c.toml:4: fcm.data.message_type: is a key that FCM reserves",
    'name = "x"\n' + FCM + "android.data.n = 1": "c.toml:4: fcm.android.data.n: 1 is not a text",
    'name = "x"\n' + FCM + "webpush.x = nan": "c.toml:4: fcm.webpush.x: JSON has no nan",
    'name = "x"\n' + FCM + 'analytics_label = "{{x}}"': "c.toml:4: fcm.analytics_label: '{{x}}' has a field",
    'name = "x"\n' + FCM + 'analytics_label = "a b"': 'c.toml:4: fcm.analytics_label: "a b" does not match',
    # Fields
    'name = "x"\n' + FCM + 'data."{{k}}" = "1"': 'c.toml:4: fcm.data."{{k}}": a field can stand in a value',
    'name = "x"\n' + FCM + 'data.k = "{{|f}}"': "c.toml:4: fcm.data.k: '{{|f}}' names no column",
    # Sending twice
    'name = "x"\nunknown_policy = "resend"\n' + APNS: "c.toml:3: apns.collapse_id: missing",
    'name = "x"\nunknown_policy = "resend"\n' + FCM: "c.toml:3: fcm.collapse_key: missing, and so is tag",
    # How it is launched
    'name = "x"\nrequire_approval = "yes"\n' + FCM: 'c.toml:2: require_approval: "yes" is not true or false',
    'name = "x"\nstages = 3\n' + FCM: "c.toml:2: stages: 3 is not a list",
    'name = "x"\nstages = [{ share = 1 }]\n' + FCM: "c.toml:2: stages[0].share: 1 is not less than 1",
    'name = "x"\nstages = [{ share = true }]\n' + FCM: "c.toml:2: stages[0].share: true is not a number",
    'name = "x"\n' + FCM + "[[stages]]\nhold_s = 1": "c.toml:4: stages[0].share: missing; 0.01 is the first",
    'name = "x"\n' + FCM + "[[stages]]\nshare = 0.1\nhold_s = -1": "c.toml:6: stages[0].hold_s: -1 is less than 0",
    'name = "x"\n' + FCM + "[[stages]]\nshare = 0.2\n[[stages]]\nshare = 0.2": "c.toml:7: stages[1].share: 0.2 is not",
    'name = "x"\nwindow_s = 5\n' + FCM + "[[stages]]\nshare = 0.2": "c.toml:5: stages: hold for 5 s together",
    f'name = "x"\nstages = [{"{}, " * 11}]\n' + FCM: "c.toml:2: stages: a list has 11 entries; at most 10 are possible",
    'name = "x"\nguard = true\n' + FCM: "c.toml:2: guard: true is neither false nor a table",
    'name = "x"\nguard = "off"\n' + FCM: 'c.toml:2: guard: "off" is neither false nor a table',
    'name = "x"\nguard.replies = 0\n' + FCM: "c.toml:2: guard.replies: 0 is less than 1",
    'name = "x"\nguard.stop_shar = 1\n' + FCM: "c.toml:2: guard.stop_shar: unknown key; did you mean stop_share?",
    'name = "x"\nguard.bad_token_share = 1.5\n' + FCM: "c.toml:2: guard.bad_token_share: 1.5 is more than 1",
    # Variants
    'name = "x"\n' + APNS + "variant_by = 'l'": "c.toml:5: apns.variant_by: no variant says 'when'",
    'name = "x"\n' + APNS + "variant_by = 'l'\n[[apns.variants]]\nwhen = []": "c.toml:7: apns.variants[0].when: ",
    'name = "x"\n' + APNS + "[[apns.variants]]\nweight = 0": "c.toml:6: apns.variants[0].weight: the only arm",
    # Size
    'name = "x"\n' + APNS + f"thread_id = '{'é' * 2100}'": "c.toml:2: apns: the message has 4,",
}  # fmt: skip


@pytest.mark.parametrize(("text", "told"), SINGLE.items())
def test_a_fault_is_told_alone_at_its_line(text: str, told: str) -> None:
    found = faults(text)
    assert len(found) == 1
    assert found[0].startswith(told)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'name = "x"\nname = "y"', "c.toml:2: not valid TOML: "),
        (b'name = "x', "c.toml:1: not valid TOML: "),
        (b'a = 1\nname = "\xff"', "c.toml:2: not UTF-8: "),
        (b"a = " + b"[" * 100_000, "c.toml:1: "),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(data: bytes, told: str) -> None:
    with pytest.raises(CampaignFileError) as caught:
        parse_campaign(data, "c.toml")
    assert str(caught.value).startswith(told)


VALUES = [
    "3", "-1", "true", "inf", "nan", '""', '"{{x}}"', '"{{"', "[]", "[1]", '["a"]', "[[1]]", "{}", "{ a = 1 }", "[{}]",
    '[{ when = "de" }]', '{ when = "x" }', '{ "{{k}}" = "v" }', "2026-01-01", "2026-01-01T00:00:00Z", "07:30:00",
    "99999999999999999999", '"\\u0000"',
]  # fmt: skip
FILES = [(EXAMPLES / f"{name}.toml").read_text(encoding="utf-8").splitlines() for name in ("superbowl", "staged")]


@given(
    st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 200), st.sampled_from(VALUES)), min_size=1, max_size=5)
)
def test_whatever_stands_in_a_key_is_taken_or_told_with_a_line(file: list[str], changes: list[tuple[int, str]]) -> None:
    lines = list(file)
    for chosen, value in changes:
        number = chosen % len(lines)
        key, equals, _ = lines[number].partition("=")
        lines[number] = f"{key}= {value}" if equals else ""
    examination = examine_bytes("\n".join(lines).encode(), "c.toml")
    if examination.faults:
        assert all(fault.line for fault in examination.faults)
    else:
        assert compile_messages(examination.sound()).templates


def test_a_missing_file_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="no campaign file") as caught:
        load_campaign(tmp_path / "none.toml")
    assert "TOML" in caught.value.remedy


def test_a_fault_of_the_base_message_is_told_once_not_for_every_variant() -> None:
    found = faults(
        """\
        name = "x"
        unknown_policy = "resend"
        [apns]
        topic = "a"
        alert.body = "{{"
        variant_by = "locale"
        [[apns.variants]]
        when = "de"
        alert.title = "{{"
        [[apns.variants]]
        when = "fr"
        """
    )
    assert [each.split(": ")[:2] for each in found] == [
        ["c.toml:3", "apns.collapse_id"],
        ["c.toml:5", "apns.alert.body"],
        ["c.toml:9", "apns.variants[0].alert.title"],
    ]


def test_arms_of_one_value_need_names_and_weight() -> None:
    found = faults(
        """\
        name = "x"
        [fcm]
        notification.body = "b"
        variant_by = "locale"
        [[fcm.variants]]
        when = ["de", "fr"]
        [[fcm.variants]]
        when = "de_AT"
        arm = "A"
        weight = 0
        [[fcm.variants]]
        when = "de-at"
        arm = "A"
        weight = 0
        [[fcm.variants]]
        when = "DE"
        arm = "B"
        """
    )
    told = "\n".join(found)
    assert "c.toml:5: fcm.variants[0]: shares when = 'de' with another variant and needs an 'arm'" in found
    assert "c.toml:10: fcm.variants[1].weight: the arms with when = 'de-at' weigh nothing together" in found
    assert "'de-at' and 'de_AT' are the same locale" in told
    assert "'DE' and 'de' are the same locale" in told


def test_two_variants_of_one_name_are_refused() -> None:
    twice = '[[apns.variants]]\narm = "A"\n' * 2
    assert faults('name = "x"\n' + APNS + twice) == [
        "c.toml:7: apns.variants[1]: a second variant named 'default/A'; tell them apart by 'when' or 'arm'"
    ]


def test_more_variants_or_fields_than_a_snapshot_can_number_are_refused() -> None:
    many = "".join(f'[[apns.variants]]\narm = "{number}"\n' for number in range(251))
    assert "at most 250" in faults('name = "x"\n' + APNS + many)[0]
    fields = "".join(f"{{{{c{number}}}}}" for number in range(FIELDS_MAX + 1))
    assert f"at most {FIELDS_MAX}" in faults(f'name = "x"\n{FCM}data.x = "{fields}"')[0]


def test_a_variant_overrides_any_key_and_keeps_the_rest() -> None:
    rendered = bodies(
        """\
        name = "x"
        [apns]
        topic = "a"
        sound = "default"
        variant_by = "locale"
        alert = { title = "Hi {{name|you}}", body = "Base" }
        custom = { deep = { a = 1, b = [1, 2] }, keep = true }
        [[apns.variants]]
        when = "de"
        sound = "de.caf"
        alert.title = "Hallo {{name|du}}"
        custom.deep.b = [3]
        """,
        Provider.APNS,
    )
    assert rendered == {
        "default": {
            "aps": {"alert": {"title": "Hi <name>", "body": "Base"}, "sound": "default"},
            "deep": {"a": 1, "b": [1, 2]},
            "keep": True,
        },
        "de": {
            "aps": {"alert": {"title": "Hallo <name>", "body": "Base"}, "sound": "de.caf"},
            "deep": {"a": 1, "b": [3]},
            "keep": True,
        },
    }


def test_the_rows_that_match_no_variant_get_the_base_message_or_the_variants_without_when() -> None:
    by_locale = 'variant_by = "locale"\n[[apns.variants]]\nwhen = "de"\n'
    arms = '[[apns.variants]]\narm = "A"\nweight = 3\n[[apns.variants]]\narm = "B"\n'
    with_base = compile_messages(parse('name = "x"\n' + APNS + by_locale)).choosers[Provider.APNS]
    assert (with_base.default, with_base.by_value) == ((0,), {"de": (1,)})
    with_arms = compile_messages(parse('name = "x"\n' + APNS + by_locale + arms)).choosers[Provider.APNS]
    assert (with_arms.default, with_arms.by_value) == ((1, 2), {"de": (0,)})
    assert with_arms.weights == {0: 1.0, 1: 3.0, 2: 1.0}
    assert with_arms.match_locale


def test_every_apns_option_reaches_its_header_or_key() -> None:
    text = """\
        name = "x"
        [apns]
        topic = "a"
        priority = 5
        expiration = 3600
        collapse_id = "c"
        sound = "s.caf"
        critical = true
        volume = 0.5
        badge = 0
        category = "C"
        thread_id = "t-{{t}}"
        mutable_content = true
        content_available = true
        target_content_id = "w"
        interruption_level = "critical"
        relevance_score = 0.25
        filter_criteria = "f"
        aps = { "stale-date" = 1 }
        [apns.alert]
        title_loc_key = "K"
        title_loc_args = ["{{a}}", "b"]
        """
    (template,) = compile_messages(parse(text)).templates[Provider.APNS]
    assert template.headers == (
        ("apns-topic", "a"),
        ("apns-push-type", "alert"),
        ("apns-priority", "5"),
        ("apns-expiration", "+3600"),
        ("apns-collapse-id", "c"),
    )
    assert bodies(text, Provider.APNS)["default"] == {
        "aps": {
            "alert": {"title-loc-key": "K", "title-loc-args": ["<a>", "b"]},
            "sound": {"critical": 1, "name": "s.caf", "volume": 0.5},
            "badge": 0,
            "category": "C",
            "thread-id": "t-<t>",
            "mutable-content": 1,
            "content-available": 1,
            "target-content-id": "w",
            "interruption-level": "critical",
            "relevance-score": 0.25,
            "filter-criteria": "f",
            "stale-date": 1,
        }
    }


@pytest.mark.parametrize(
    ("line", "header"),
    [
        ("", "0"),
        ("expiration = 0", "0"),
        ("expiration = 60", "+60"),
        ("expiration = 2026-02-08T18:30:00-05:00", "1770593400"),
    ],
)
def test_the_expiration_is_never_now_relative_or_absolute(line: str, header: str) -> None:
    (template,) = compile_messages(parse('name = "x"\n' + APNS + line)).templates[Provider.APNS]
    assert dict(template.headers)["apns-expiration"] == header


def test_a_background_push_has_the_priority_and_key_that_apple_demands() -> None:
    text = 'name = "x"\n[apns]\ntopic = "a"\npush_type = "background"\ncustom.k = "v"'
    (template,) = compile_messages(parse(text)).templates[Provider.APNS]
    assert dict(template.headers)["apns-priority"] == "5"
    assert bodies(text, Provider.APNS) == {"default": {"aps": {"content-available": 1}, "k": "v"}}


def test_every_fcm_option_reaches_its_key_and_raw_json_is_laid_over() -> None:
    text = """\
        name = "x"
        [fcm]
        notification = { title = "T", body = "{{b}}" }
        image = "https://i"
        data = { k = "{{v}}" }
        priority = "high"
        ttl_s = 30
        collapse_key = "c-{{k}}"
        channel = "ch"
        tag = "t"
        restricted_package_name = "p"
        analytics_label = "l"
        android = { direct_boot_ok = true, notification = { color = "#fff", channel_id = "raw" } }
        webpush = { headers = { Urgency = "high" } }
        apns = { payload = { aps = { sound = "{{s}}" } } }
        """
    assert bodies(text, Provider.FCM)["default"] == {
        "message": {
            "token": "T",
            "notification": {"title": "T", "body": "<b>", "image": "https://i"},
            "data": {"k": "<v>"},
            "android": {
                "priority": "high",
                "ttl": "30s",
                "collapse_key": "c-<k>",
                "restricted_package_name": "p",
                "notification": {"channel_id": "raw", "tag": "t", "color": "#fff"},
                "direct_boot_ok": True,
            },
            "webpush": {"headers": {"Urgency": "high"}},
            "apns": {"payload": {"aps": {"sound": "<s>"}}},
            "fcm_options": {"analytics_label": "l"},
        }
    }
    (template,) = compile_messages(parse(text)).templates[Provider.FCM]
    assert template.headers == (("content-type", "application/json"),)


@pytest.mark.parametrize(
    "line", ['collapse_key = "c"', 'tag = "t"', 'android.collapse_key = "c"', 'android.notification.tag = "t"']
)
def test_resend_is_content_with_any_way_to_show_one(line: str) -> None:
    assert parse(f'name = "x"\nunknown_policy = "resend"\n{FCM}{line}').policy is UnknownPolicy.RESEND


def test_columns_needed_are_those_of_fields_and_of_the_choice() -> None:
    campaign = load_campaign(EXAMPLES / "superbowl.toml")
    assert campaign.columns_needed() == {"first_name", "city", "user_id", "locale"}
    assert parse('name = "x"\n' + APNS + FCM + 'data.x = "{{{{a}} {{b}}"').columns_needed() == {"b"}
    assert parse('name = "x"\n' + APNS + FCM + 'data.x = "{{b}}"').columns_needed(Provider.APNS) == set()


def test_fields_with_different_fallbacks_are_different_fields() -> None:
    text = 'name = "x"\n' + FCM + 'data = { a = "{{n|x}}", b = "{{ n | x }}", c = "{{n|y}}" }'
    assert compile_messages(parse(text)).fields == (Field("n", "x"), Field("n", "y"))


@pytest.mark.parametrize("name", ["minimal", "staged", "superbowl"])
def test_an_example_compiles_and_compiles_the_same_again(name: str) -> None:
    path = EXAMPLES / f"{name}.toml"
    assert compile_messages(load_campaign(path)) == compile_messages(load_campaign(path))


def test_settings_reach_the_compiled_campaign() -> None:
    compiled = compile_messages(parse('name = "x"\nwindow_s = 5\nunknown_policy = "drop"\npace.fcm = 10\n' + FCM))
    assert (compiled.name, compiled.window_s, compiled.unknown_policy) == ("x", 5.0, UnknownPolicy.DROP)
    assert compiled.pace == {Provider.FCM: 10.0}


def test_a_campaign_says_how_its_launch_goes() -> None:
    assert launch_terms(load_campaign(EXAMPLES / "staged.toml")) == {
        "window_s": 120.0,
        "unknown_policy": UnknownPolicy.DROP,
        "require_approval": True,
        "pace": {Provider.FCM: 10_000.0},
        "stages": (Stage(share=0.01, hold_s=10.0), Stage(share=0.1, hold_s=5.0)),
        "guard": GuardTerms(replies=100, stop_share=0.05, bad_token_share=0.2),
        "shield": None,
    }


def test_a_campaign_that_says_nothing_of_it_is_launched_like_any_record() -> None:
    terms = launch_terms(parse('name = "x"\n' + FCM))
    assert terms.pop("guard") == GuardTerms(), "the guard is on unless it is turned off"
    fresh = LaunchRecord(launch="x-1", campaign="x", state=State.DRAFT, created_at=0.0)
    assert terms == {name: getattr(fresh, name) for name in terms}
    assert Stage(share=0.5).hold_s == HOLD_S_DEFAULT


SHIELD = '[shield]\napp = "shop"\nminutes = 10\nfeatures = ["*"]\nkeep = ["payments"]\nwrites = "queue"\n'


def test_a_campaign_may_name_a_shield_that_its_launches_raise() -> None:
    shield = launch_terms(parse('name = "x"\n' + SHIELD + FCM))["shield"]
    assert (shield.app, shield.at, shield.minutes, shield.share) == ("shop", "go", 10.0, 1.0)
    assert (shield.features, shield.keep, shield.writes) == (("*",), ("payments",), Writes.QUEUE)
    record = LaunchRecord(launch="x-1", campaign="x", state=State.DRAFT, created_at=0.0, shield=shield)
    assert LaunchRecord.model_validate_json(record.to_bytes()) == record


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('app = "shop"\n', "", "shield.app: missing"),
        ("minutes = 10", "minutes = 0", "shield.minutes: 0 is not more than 0"),
        ("minutes = 10", "minuten = 10", "shield.minuten: unknown key; did you mean minutes?"),
        ('features = ["*"]', "features = []", "shield.features: a list is empty"),
        ('features = ["*"]', 'features = ["feed"]', 'shield.keep: has no meaning unless features has "*"'),
        ('writes = "queue"', 'writes = "drop"', "shield.writes: "),
        ('app = "shop"', 'app = "Shop!"', "shield.app: "),
    ],
)
def test_a_shield_that_cannot_be_meant_is_named_by_its_key(before: str, after: str, told: str) -> None:
    assert any(told in fault for fault in faults('name = "x"\n' + SHIELD.replace(before, after) + FCM))


def test_the_guard_can_be_turned_off_alone() -> None:
    assert launch_terms(parse('name = "x"\nguard = false\n' + FCM))["guard"] is None


def test_a_launch_record_takes_a_campaigns_terms() -> None:
    terms = launch_terms(load_campaign(EXAMPLES / "superbowl.toml"))
    record = LaunchRecord(launch="x-1", campaign="x", state=State.DRAFT, created_at=0.0, **terms)
    assert LaunchRecord.model_validate_json(record.to_bytes()) == record


def test_a_campaign_made_in_python_is_judged_when_it_is_compiled() -> None:
    with pytest.raises(CampaignFileError, match=r"apns\.topic: missing"):
        compile_messages(Campaign.model_validate({"name": "x", "apns": {"alert": {"body": "b"}}}))
