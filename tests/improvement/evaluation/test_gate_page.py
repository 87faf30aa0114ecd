"""The gate's page: parsed as a browser would, with hostile texts in every place a stranger can write to."""

import math
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from improvement.evaluation.gate_page import page

HOSTILE = "</li><script>alert('$x_$')</script><img src=x onerror=alert(1)>\"'{{ 7*7 }}"


def estimate(mean: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high, "count": 7}


def report(text: str = "red shoes", **changes: Any) -> dict[str, Any]:
    """Return a report as the API gives it, with one text wherever strangers' texts stand."""
    shown = [
        {"object_id": text, "title": text, "clicked": True},
        {"object_id": "o2", "title": None, "clicked": False},
    ]
    mover = {
        "query": text, "personal": True, "ndcg_before": 0.2, "ndcg_after": 0.7, "change": 0.5,
        "before": shown, "after": shown[::-1],
    }  # fmt: skip
    differences = {"ndcg@10": estimate(-0.02, -0.03, -0.01), "mrr": estimate(None)}
    made: dict[str, Any] = {
        "report_id": "r1", "domain": "things", "build": "b1", "green": "g", "blue": "b",
        "passed": False, "reasons": ["it is worse"], "created_at": 1_700_000_000.0,
        "metrics": {
            "blue": {"ndcg@10": estimate(0.5), "mrr": estimate(None)},
            "green": {"ndcg@10": estimate(0.48), "mrr": estimate(None)},
            "differences": differences,
        },
        "rules": [
            {"rule": "ndcg@10", "threshold": -0.01, "found": -0.03, "passed": False, "sentence": text},
            {"rule": "mrr", "threshold": -0.01, "found": None, "passed": False, "sentence": "not measured"},
            {"rule": "drift", "threshold": "inf", "found": "inf", "passed": True, "sentence": "far"},
        ],
        "searches": {
            "queries": 40, "overlap@10": estimate(0.8, 0.7, 0.9), "found_in_blue": 100, "found_in_green": 90,
        },
        "objects": {
            "objects": 1234, "missing": 2, "missing_examples": [text],
            "drift": {
                "mean": 0.1, "p95": 0.2, "max": "inf", "counts": [3, 0, 1], "edges": [0, 0.1, 0.2, 0.3],
            },
        },
        "movers": {"gained": [mover], "lost": []},
        "source": {
            "blue": text, "green": "words@1", "test": 60, "judged": 50, "users": 9, "judged_with_copies": 3,
            "judged_with_profile": 2, "split_at": 1_700_000_000.0, "not_judged": {text: 3}, "dataset": None,
        },
        "thresholds": {"most_drift": 0.3, "margin": 0.01},
        "seed": 0,
    }  # fmt: skip
    return made | changes


class Parsed(HTMLParser):
    """Collects tags, attributes and texts, and checks that what is opened is closed in turn."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_the_verdict_stands_on_top_in_one_sentence():
    words = Parsed(page(report())).words
    assert "Green may not serve: 2 of 3 rules do not hold (ndcg@10, mrr)" in words
    rules = [{**rule, "passed": True} for rule in report()["rules"]]
    assert "Green may serve: all 3 rules hold" in Parsed(page(report(passed=True, rules=rules))).words


def test_every_part_of_a_report_is_on_the_page():
    parsed = Parsed(page(report()))
    for said in (
        "2023-11-14 22:13:20 UTC", "1,234 in blue, 2 of them missing in green", "0.800", "0.700 to 0.900",
        "100 in blue, 90 in green", "farthest inf", "red shoes", "0.200 in blue, 0.700 in green", "+0.500",
        "with fewer than 20 users".capitalize(), "Before (blue)", "After (green)", "(clicked)", "most drift",
        "not measured",
    ):  # fmt: skip
        assert said in parsed.words, said
    assert [tag for tag, _ in parsed.tags].count("svg") == 2


def test_strangers_texts_are_shown_and_never_run():
    html = page(report(HOSTILE))
    parsed = Parsed(html)
    assert not {"script", "img", "iframe", "link", "object"} & {tag for tag, _ in parsed.tags}
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert parsed.words.count("alert('$x_$')") >= 7
    assert "{{ 7*7 }}" in html
    assert "49" not in parsed.words


def test_nothing_is_fetched_from_anywhere():
    html = page(report())
    attributes = [(name, value) for _, found in Parsed(html).tags for name, value in found.items()]
    links = [value for name, value in attributes if name in ("src", "href", "xlink:href", "data", "action")]
    assert all(str(link).startswith("#") for link in links)
    assert "@import" not in html
    assert all("url(#" in found for found in re.findall(r"url\([^)]*\)", html))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_a_browser_shows_the_page_and_runs_nothing_of_it(tmp_path: Path):
    hostile = "<img src=x onerror=document.title='ran'></title><script>document.title='ran'</script>"
    (tmp_path / "page.html").write_text(page(report(hostile)), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/user"]
    done = subprocess.run(
        [*command, "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "<title>Gate: Green may not serve" in done.stdout
    assert done.stdout.count("<svg") == 2
    assert "<img" not in done.stdout


def test_both_plots_are_well_formed_in_the_pages_colours_and_found_by_screen_readers():
    plots = re.findall(r"<svg.*?</svg>", page(report()), re.DOTALL)
    for plot in plots:
        root = ElementTree.fromstring(plot)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert "var(--ink)" in plot
        assert not re.search(r"#[0-9a-f]{6}\b", plot)


def test_equal_reports_give_equal_pages_in_any_thread():
    first = page(report())
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: page(report()), range(8))) == {first}


@pytest.mark.parametrize(
    "missing", ["metrics", "rules", "searches", "objects", "movers", "source", "thresholds"]
)
def test_an_older_report_without_some_part_is_still_shown(missing: str):
    less = {name: value for name, value in report().items() if name != missing}
    assert "Green may not serve" in Parsed(page(less)).words


def test_numbers_that_are_none_or_infinite_are_no_trouble():
    strange = report()
    strange["objects"]["drift"] |= {"counts": [0] * 3, "mean": None}
    strange["thresholds"]["most_drift"] = "inf"
    strange["metrics"]["differences"]["ndcg@10"] = estimate(0.1, None, math.inf)
    Parsed(page(strange))
    strange["objects"]["drift"] = None
    assert "another embedding space" in Parsed(page(strange)).words


def test_the_page_loads_no_plotting_until_it_is_drawn_and_never_its_global_state():
    code = (
        "import sys, improvement.evaluation.gate_page as it\n"
        "assert not {'matplotlib', 'torch', 'numba'} & sys.modules.keys()\n"
        "it.page({'passed': True, 'metrics': {'differences': {'mrr': {'mean': 1, 'low': 1, 'high': 1}}}})\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
