"""What an experiment may be: wrong ones name the field."""

from dataclasses import replace
from typing import Any

import pytest

from improvement.domain import check_domain
from improvement.errors import WrongPlugin
from improvement.evidence import EvidenceWeights
from improvement.experiments.settings import Arm, Experiment, Treatment
from improvement.two_tower.settings import TowerSettings
from tests.support import make_domain

ARMS = (Arm("a", Treatment.STATIC), Arm("b", Treatment.COPIES))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", ""), ("name", "x" * 65), ("name", 5), ("name", "\ud800"), ("treatment", "copies"),
        ("share", 0.0), ("share", -1.0), ("share", float("nan")), ("share", float("inf")), ("share", True),
        ("evidence", {"click": 1}), ("profile_weight", 0.5), ("collection", "words-v2"), ("collection", ""),
    ],
)  # fmt: skip
def test_an_arm_that_makes_no_sense_is_refused(field: str, wrong: Any):
    with pytest.raises(ValueError, match=field):
        replace(ARMS[1], **{field: wrong})


def test_who_gets_originals_has_no_evidence_of_their_own():
    with pytest.raises(ValueError, match="evidence"):
        Arm("a", Treatment.STATIC, evidence=EvidenceWeights())
    Arm("a", Treatment.PROFILE, profile_weight=0.0, evidence=EvidenceWeights())
    Arm("a", Treatment.POPULATION, profile_weight=1, collection="words-v2", evidence=EvidenceWeights())


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", ""), ("arms", ARMS[:1]), ("arms", list(ARMS)), ("arms", (ARMS[0], ARMS[0])), ("arms", "ab"),
        ("arms", tuple(Arm(f"{n}", Treatment.COPIES) for n in range(101))),
        ("percent", -1.0), ("percent", 101.0), ("percent", float("nan")), ("level", 0.0), ("level", 1.0),
        ("primary", "clickthrough"), ("planned_sessions", 0), ("planned_sessions", 1.5),
    ],
)  # fmt: skip
def test_an_experiment_that_makes_no_sense_is_refused(field: str, wrong: Any):
    with pytest.raises(ValueError, match=field):
        replace(Experiment("e", ARMS), **{field: wrong})


def test_an_arm_of_two_towers_needs_them():
    experiment = Experiment("e", (ARMS[0], Arm("towers", Treatment.TWO_TOWER)))
    with pytest.raises(WrongPlugin, match=r"experiment\.arms.*towers"):
        check_domain(make_domain(experiment=experiment), "plugin")
    check_domain(make_domain(experiment=experiment, towers=TowerSettings(engaged_from=1.0)), "plugin")
    with pytest.raises(WrongPlugin, match="experiment"):
        check_domain(make_domain(experiment={"name": "e"}), "plugin")
