"""A weighting scheme of an arm: its users' copies are what a domain of that scheme would make of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clickstream.improvement_queue import Owner, Request
from improvement.domain import SearchDomain
from improvement.evidence import EvidenceWeights
from improvement.experiments.assignment import assigned
from improvement.experiments.settings import Arm, Experiment, Treatment
from improvement.experiments.treatment import evidence_for
from improvement.jobs import improve_users
from improvement.periodic import uses_propensities
from improvement.wiring import Rooms, improver
from tests.support import click, make_objects, make_session

SCHEME = EvidenceWeights(skipped=-3.0, per_session=False, half_life_days=1.0)
EXPERIMENT = Experiment(
    "e", (Arm("usual", Treatment.COPIES), Arm("scheme", Treatment.COPIES, evidence=SCHEME))
)
USERS = {
    arm.name: next(f"u{n}" for n in range(1_000) if assigned(EXPERIMENT, f"u{n}") == arm)
    for arm in EXPERIMENT.arms
}


def copies_of(rooms: Rooms, domain: SearchDomain, user: str) -> dict[str, Any]:
    held = rooms.vectors.copies(domain.name, [user])
    made = rooms.vectors.named(domain.name, [f"{copy.original_id}_{user}" for copy in held])
    return {str(copy.original_id): copy for copy in made}


def improve(rooms: Rooms, domain: SearchDomain) -> None:
    at_work = replace(improver(rooms), domains={domain.name: domain})
    while improve_users(at_work, 10).claimed:
        pass


@pytest.fixture
def searched(rooms: Rooms, domain: SearchDomain) -> None:
    """Both users did the same, twice; the second time two days later."""
    rooms.vectors.upsert(domain.name, make_objects(domain, 8))
    for user in USERS.values():
        for n in range(2):
            session = make_session(f"{user} {n}", user, [f"o{i}" for i in range(6)])
            at = session.created_at - 2 * 86_400 * (1 - n)
            rooms.clickstream.register(session.model_copy(update={"created_at": at}))
            event = click(f"o{3 + n}").model_copy(update={"created_at": at + 30})
            rooms.clickstream.push_events([(session.session_id, event)])
    again(rooms, domain)


def again(rooms: Rooms, domain: SearchDomain) -> None:
    rooms.queue.enqueue(
        Request(f"{user} {n}", Owner(domain.name, user), 1) for user in USERS.values() for n in range(2)
    )
    rooms.queue.enqueue_rebuild([Owner(domain.name, user) for user in USERS.values()])


@pytest.mark.usefixtures("searched")
def test_the_scheme_makes_its_users_copies_and_nobody_elses(rooms: Rooms, domain: SearchDomain):
    made = {}
    for name, evidence, experiment in (
        ("neither", domain.evidence, None), ("both", SCHEME, None), ("arms", domain.evidence, EXPERIMENT),
    ):  # fmt: skip
        improve(rooms, replace(domain, evidence=evidence, experiment=experiment))
        made[name] = {arm: copies_of(rooms, domain, user) for arm, user in USERS.items()}
        again(rooms, domain)
    for arm, alone in {"usual": "neither", "scheme": "both"}.items():
        one, expected = made["arms"][arm], made[alone][arm]
        assert one.keys() == expected.keys()
        assert one
        for object_id, copy in one.items():
            assert copy.revision == expected[object_id].revision
            np.testing.assert_array_equal(copy.parts, expected[object_id].parts)
    revisions = [{copy.revision for copy in made[name]["scheme"].values()} for name in ("neither", "both")]
    assert not revisions[0] & revisions[1], "the digest says which evidence a copy is made of"


@pytest.mark.usefixtures("searched")
def test_profiles_hear_of_searches_by_the_scheme_too(rooms: Rooms, domain: SearchDomain):
    told = {}
    for name, evidence, experiment in (
        ("both", SCHEME, None), ("arms", domain.evidence, EXPERIMENT),
    ):  # fmt: skip
        improve(rooms, replace(domain, evidence=evidence, experiment=experiment))
        told[name] = rooms.profiles.load(domain.name, [USERS["scheme"]])[USERS["scheme"]].searched
        again(rooms, domain)
    assert told["arms"] == told["both"] != ()


def test_whose_events_are_worth_what():
    usual = EvidenceWeights()
    assert evidence_for(EXPERIMENT, USERS["scheme"], usual) is SCHEME
    assert evidence_for(EXPERIMENT, USERS["usual"], usual) is usual
    assert evidence_for(EXPERIMENT, None, usual) is usual
    assert evidence_for(None, USERS["scheme"], usual) is usual


def test_propensities_are_estimated_if_an_arm_asks_for_them(domain: SearchDomain):
    weighted = Arm("ipw", Treatment.COPIES, evidence=EvidenceWeights(max_inverse_propensity=10.0))
    asking = replace(EXPERIMENT, arms=(*EXPERIMENT.arms, weighted))
    assert not uses_propensities(replace(domain, experiment=EXPERIMENT))
    assert uses_propensities(replace(domain, experiment=asking))
