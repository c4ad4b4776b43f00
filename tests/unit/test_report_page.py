"""The page of a launch: whole in itself, safe to open, and readable without seeing the pictures."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_data import accepted, facts, rows, simulator_ledger, snapshot

from flashcast import latency
from flashcast.model import Provider
from flashcast.outcomes import Outcome, Reason
from flashcast.report import svg
from flashcast.report.charts import BINS_MAX, Charts, charts
from flashcast.report.page import render_page
from flashcast.report.summary import report_document
from flashcast.report.text import share

ENDS = rows(
    *[(Outcome.ACCEPTED, Reason.NONE)] * 5,
    (Outcome.REJECTED, Reason.UNREGISTERED),
    (Outcome.UNKNOWN, Reason.SILENCE),
    (Outcome.FAILED, Reason.FCM_QUOTA_EXCEEDED),
)
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Markup(HTMLParser):
    """Collects tags and attributes, and holds every open tag against its end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _page(name: str = "Final whistle", **changes: object) -> str:
    of = snapshot()
    of.name = name
    told = facts(**changes)
    ledger = simulator_ledger(of, [1, 1, 1, 1, 1, 0, 1, 0])
    return render_page(report_document(of, ENDS, told, ledger), charts(of, ENDS, told.latency_us_histogram))


def test_every_tag_is_closed_in_its_order() -> None:
    markup = Markup(_page())
    assert markup.open == []
    assert markup.tags.count("svg") == 3


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    page = _page()
    markup = Markup(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(markup.tags)
    assert not {"src", "href", "srcset", "onload", "style"} & {name for name, _ in markup.attributes}
    assert "url(" not in page
    assert "@import" not in page
    assert re.findall(r"https?://", page) == []
    assert "default-src 'none'" in page


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b"])
def test_what_comes_from_outside_is_text_and_never_markup(name: str) -> None:
    markup = Markup(_page(name, destination=name, launch=name))
    assert not {"script", "img"} & set(markup.tags)
    assert name in markup.text
    assert f"{name} · {name}" in markup.text


def test_warnings_and_imbalances_are_escaped_too() -> None:
    of = snapshot()
    document = report_document(of, ENDS, facts())
    document["imbalances"] = document["warnings"] = ["<script>x</script>"]
    assert "script" not in Markup(render_page(document, charts(of, ENDS, latency.empty()))).tags


def test_each_picture_says_in_words_what_it_shows() -> None:
    labels = [value or "" for name, value in Markup(_page()).attributes if name == "aria-label"]
    assert labels[0] == "Outcomes of 8 devices: accepted 5, rejected 1, failed 1, unknown 1."
    assert labels[1].startswith("Accepted per second since GO")
    assert labels[2].startswith("Distribution of reply times; p50")


def test_the_page_tells_what_each_outcome_and_reason_means() -> None:
    text = " ".join(Markup(_page()).text)
    assert "the provider refused it and would again" in text
    assert "No answer came within reply_deadline_s." in text
    assert "acceptance is not delivery" in text


def test_a_launch_in_which_nothing_happened_still_has_a_page() -> None:
    of = snapshot()
    nothing = rows(*[(Outcome.UNSENT, Reason.NONE)] * 8)
    told = facts(latency_us_histogram=latency.empty(), go_to_last_reply_s=None, go_to_first_request_ms=None)
    markup = Markup(render_page(report_document(of, nothing, told), charts(of, nothing, latency.empty())))
    assert "No request was accepted." in markup.text
    assert "No reply was timed." in markup.text


def test_an_empty_audience_still_has_a_page() -> None:
    of = snapshot(0, 0)
    none = accepted(0)
    markup = Markup(render_page(report_document(of, none, facts()), charts(of, none, latency.empty())))
    assert "There was no device." in markup.text


@pytest.mark.parametrize("last_ms", [0, 9, 1_999, 2_000, 59_999, 3_600_000, 30_000_000])
def test_a_launch_of_any_length_is_drawn_with_few_bins_and_no_row_is_lost(last_ms: int) -> None:
    of = snapshot(apns=2, fcm=1)
    made = accepted(3)
    made.reply_ms[:] = (0, last_ms, last_ms // 2)
    series = charts(of, made, latency.empty())
    assert {counts.size for counts in series.accepted.values()} == {last_ms // series.bin_ms + 1}
    assert last_ms // series.bin_ms + 1 <= BINS_MAX
    assert {p: int(c.sum()) for p, c in series.accepted.items()} == {Provider.APNS: 2, Provider.FCM: 1}


def test_series_read_back_are_the_series_written() -> None:
    told = facts()
    series = charts(snapshot(), ENDS, told.latency_us_histogram)
    again = Charts.from_json(series.to_json())
    assert again.bin_ms == series.bin_ms
    assert {p: c.tolist() for p, c in again.accepted.items()} == {p: c.tolist() for p, c in series.accepted.items()}
    assert again.latency_us.tolist() == series.latency_us.tolist()


@pytest.mark.parametrize("us", [[0], [1], [latency.US_MAX], [0, latency.US_MAX], [40_000] * 3])
def test_any_reply_time_can_be_drawn(us: list[int]) -> None:
    histogram = latency.empty()
    for one in us:
        histogram[latency.bucket_of(one)] += 1
    marks = {f"p{p:g}": latency.percentile(histogram, p) / 1_000 for p in (50.0, 95.0, 99.0)}
    drawn = svg.latency_distribution(Charts(10, {}, histogram), marks)
    numbers = [float(n) for n in re.findall(r' (?:x|y|width|height|x1|x2)="([^"]*)"', drawn)]
    assert all(-1 <= n <= svg.WIDTH + 1 for n in numbers)
    assert "nan" not in drawn


def test_parts_of_the_outcome_bar_fill_it_and_the_smallest_can_be_seen() -> None:
    drawn = svg.share_bar({"accepted": 4_000_000, "rejected": 0, "unknown": 1})
    widths = [float(w) for w in re.findall(r' width="([^"]*)"', drawn)]
    assert len(widths) == 2
    assert sum(widths) + len(widths) == pytest.approx(svg.WIDTH, abs=0.1)
    assert min(widths) >= 1


def test_throughput_of_a_single_instant_is_drawn() -> None:
    drawn = svg.throughput(Charts(10, {Provider.APNS: np.array([7], np.int64)}, latency.empty()))
    assert "apns 700/s" in drawn


@given(st.lists(st.integers(0, latency.US_MAX), min_size=1, max_size=50))
def test_labels_of_percentiles_never_hide_each_other(times: list[int]) -> None:
    histogram = latency.empty()
    for us in times:
        histogram[latency.bucket_of(us)] += 1
    marks = {f"p{p:g}": latency.percentile(histogram, p) / 1_000 for p in (50.0, 95.0, 99.0)}
    drawn = svg.latency_distribution(Charts(10, {}, histogram), marks)
    labels = re.findall(r'<text class="mark-name" x="([^"]*)"( text-anchor="end")? y="([^"]*)">([^<]*)<', drawn)
    boxes = []
    for x, end, y, text in labels:
        width = 8.2 * len(text)
        boxes.append((float(x) - (width if end else 0), float(x) + (0 if end else width), float(y)))
    assert len(boxes) == 3
    for i, a in enumerate(boxes):
        assert a[0] >= -1
        assert a[1] <= svg.WIDTH + 1
        assert not any(a[2] == b[2] and a[0] < b[1] and b[0] < a[1] for b in boxes[:i])


def test_a_share_too_small_to_show_is_not_shown_as_nothing() -> None:
    assert [share(n, 50_000) for n in (0, 2, 5, 50_000)] == ["", "< 0.01 %", "0.01 %", "100.00 %"]
