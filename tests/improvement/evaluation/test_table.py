"""What a report looks like on a terminal."""

import io
import math

from rich.console import Console

from improvement.evaluation.report import Estimate, Report, Row
from improvement.evaluation.table import show


def printed(report: Report, width: int = 80) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=width))
    return out.getvalue()


def test_three_methods_with_intervals_fit_eighty_columns():
    sure = Estimate(0.6842, 0.6218, 0.7012, 32)
    loss = Estimate(-0.1607, -0.2310, -0.1373, 32)
    metrics = {"ips_ndcg@10": sure, "mrr": Estimate(math.nan, math.nan, math.nan, 0)}
    rows = [
        Row("as shown", metrics, {"ips_ndcg@10": loss}),
        Row("no learning", metrics),
        Row(
            "AnAdjusterWithAVeryLongName", metrics, {"ips_ndcg@10": loss}, {"adjuster": {}}, {"seconds": 1.5}
        ),
    ]
    text = printed(Report({"users": 32, "unusable": {"no clicks": 3}, "split_at": 1_700_000_000.5}, rows))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("0.6218..0.7012") == 3
    assert text.count("-0.2310..-0.1373") == 1
    assert "…" not in text
    assert "unusable: no clicks 3" in text
    assert "2023-11-14 22:13:20 UTC" in text
    assert "fewer than" not in text


def test_several_differences_have_a_table_of_their_own():
    sure = Estimate(0.6842, 0.6218, 0.7012, 32)
    gain, loss = Estimate(0.0421, 0.0310, 0.0513, 32), Estimate(-0.1607, -0.2310, -0.1373, 32)
    rows = [
        Row("no learning", {"mrr": sure, "drift": sure}),
        Row("geodesic", {"mrr": sure, "drift": sure}, {"mrr": gain}, {"adjuster": {}}),
        Row(
            "geodesic + profile", {"mrr": sure, "drift": sure}, {"mrr": gain}, {"profile": {}},
            versus={"geodesic": {"mrr": loss}},
        ),
    ]  # fmt: skip
    means, differences = printed(Report({"users": 32}, rows)).split("difference")
    assert means.count("0.6218..0.7012") == 6
    assert differences.count("+0.0310..+0.0513") == 2
    assert differences.count("-0.2310..-0.1373") == 1
    assert "drift" not in differences
    assert differences.splitlines()[0].split() == [
        "to",
        "no",
        "learning",
        "to",
        "no",
        "learning",
        "to",
        "geodesic",
    ]
    assert max(map(len, means.splitlines() + differences.splitlines())) <= 80


def test_what_is_undefined_is_a_dash_and_few_users_are_said():
    row = Row(
        "no learning", {"mrr": Estimate(0.5, math.nan, math.nan, 1), "drift": Estimate(*[math.nan] * 3, 0)}
    )
    text = printed(Report({"users": 1, "propensities": []}, [row]))
    assert "nan" not in text
    assert "0.5000" in text
    assert " -" in text
    assert "fewer than 20 users" in text
    assert "propensities: not known" in text
