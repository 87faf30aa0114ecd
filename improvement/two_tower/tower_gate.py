"""The towers' gate: may a checkpoint's collection serve instead of the one that does?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.evaluation.gate import COVERAGE, MISSING, OVERLAP, Rule, bounded, not_inferior, reasons
from improvement.evaluation.gate_report import metrics_json, objects_json, overlap_json
from improvement.evaluation.metrics import weighted_mean
from improvement.evaluation.report import Estimate, Row, plain
from improvement.evaluation.side import Side
from improvement.evaluation.whole import Found, Held, find_in_both, hold_both
from improvement.green.reports import GateReport
from improvement.green.settings import GateSettings
from improvement.improver import Improver
from improvement.releases import Release
from improvement.two_tower.checkpoints import Checkpoint
from improvement.two_tower.damaged import damage
from improvement.two_tower.facts import ItemFacts
from improvement.two_tower.names import BEGUN, towers_domain, towers_info, towers_name
from improvement.two_tower.next_engagement import DEEP, TOP, Progress, TowerSide, ask_both, behind, cases
from improvement.two_tower.reading import facts_of

#: Objects ranked at once.
PAGE = 1_000
#: The rules of ranking: metric -> what to call it.
RANKED: Mapping[str, str] = {
    f"recall@{DEEP}": f"recall@{DEEP} of what users engaged with next",
    f"ndcg@{TOP}": f"nDCG@{TOP} of what users engaged with next",
}


class TooFewYet(Conflict):
    """Too few users came back since the checkpoint learned: ask again later. Nothing was found, or stored."""


def run_tower_gate(
    rooms: Improver,
    domain: SearchDomain,
    checkpoint_id: str,
    *,
    seed: int = 0,
    progress: Progress = lambda what, count: None,
) -> GateReport:
    """Test a checkpoint's collection against the one that serves, and store the report; changes neither.

    What users engaged with next, after all that either side learned from: see `next_engagement`. Green must
    not be worse than by the domain's margin, users who have ``min_engagements`` alone; overlap, coverage and
    missing objects are asked as of a green build. Where the checkpoint that serves cannot be read, the
    untrained one that green came of stands in for it. Overlap and coverage are told and not asked where what
    serves has learned nothing yet: to differ from it is what learning is for. Nor is overlap where green is
    better, beyond chance, by both metrics. How far items moved is not asked: it is another space.

    Args:
        seed: of the bootstrap: equal seeds find equal intervals.
        progress: called with what was done ("read", "prepared", "ranked", "searched", "compared")
            and how many more of it.

    Raises:
        TooFewYet: fewer users than the domain's ``gate.least_sessions`` can be tested.
        NotFound: it is not published.
        Conflict: it serves already.
    """
    assert domain.towers is not None
    name = towers_name(domain.name)
    blue, green = rooms.releases.blue(name), rooms.releases.get(name, checkpoint_id)
    if green.blue:
        raise Conflict(f"checkpoint {checkpoint_id} serves already: there is nothing to test it against")
    instead = None if damage(rooms, blue.space) is None else _untrained(rooms, green.space)
    here = instead or blue.space
    before, after = rooms.towers.checkpoint(here), rooms.towers.checkpoint(green.space)
    sides = (
        TowerSide(rooms.towers.tower(here), before.base_space),
        TowerSide(rooms.towers.tower(green.space), after.base_space),
    )
    watermark, settings = max(before.watermark, after.watermark), domain.gate
    _refuse_too_few(
        domain, rooms.pairs.received(domain.name, behind(watermark), math.inf, settings.least_sessions)
    )
    asked = cases(rooms.pairs, domain.name, watermark, settings.sessions, progress)
    enough = domain.towers.min_engagements
    _refuse_too_few(domain, sum(len(case.pasts) >= enough for case in asked))
    found = ask_both(
        lambda ids, space: rooms.facts.of(domain, ids, space), _pages(rooms, domain, sides), *sides, asked,
        enough, settings.queries if instead is None else 0, progress,
    )  # fmt: skip
    halves = _half(domain, sides[0], blue), _half(domain, sides[1], green)
    searched = find_in_both(rooms.vectors, *halves, found.queries, progress)
    held = hold_both(rooms.vectors, *halves, same_space=False, progress=progress)
    rows = Row.of("blue", found.blue, None, seed), Row.of("green", found.green, found.blue, seed)
    rules = verdict(settings, before, rows[1].differences, searched, held, found.enough)
    told = {
        "metrics": metrics_json(*rows),
        "rules": [asdict(rule) for rule in rules],
        "searches": overlap_json(searched, seed),
        "objects": objects_json(held, settings.most_drift),
        "source": {
            "blue": blue.embedding_model_id, "green": green.embedding_model_id,
            "spaces": [blue.space, green.space], "instead": instead, "watermark": watermark,
            "users": found.users,
            "users_with_enough": found.enough, "min_engagements": domain.towers.min_engagements,
            "trained": [before.trained, after.trained],
            "engagements": [before.engagements, after.engagements],
        },
        "thresholds": asdict(settings),
        "seed": seed,
    }  # fmt: skip
    return rooms.reports.save(
        name, checkpoint_id, green.collection_id, blue.collection_id, reasons(rules), plain(told)
    )


def _untrained(rooms: Improver, checkpoint_id: str) -> str:
    """Return the untrained checkpoint that everything began with which this one came of."""
    return [checkpoint_id, *rooms.checkpoints.ancestors(checkpoint_id)][-1]


def _refuse_too_few(domain: SearchDomain, found: int) -> None:
    """Refuse to test with so many users with enough engagements, or with so many engagements."""
    assert domain.towers is not None
    enough, least = domain.towers.min_engagements, domain.gate.least_sessions
    if found < least:
        raise TooFewYet(
            f"{found:,} users with at least {enough} engagements engaged with something new since the "
            f"checkpoint learned; {least:,} are needed to test it. Ask again when more came back"
        )


def _pages(
    rooms: Improver, domain: SearchDomain, sides: Sequence[TowerSide]
) -> Iterator[dict[str, ItemFacts]]:
    """Yield what the candidate towers read of the whole catalogue, page by page, by base space."""
    serving, after = rooms.releases.serving(domain.name), None
    while True:
        objects, after = rooms.vectors.page(serving.collection_id, PAGE, after)
        spaces = {side.base_space for side in sides}
        yield {space: facts_of(domain, objects, serving.space, space)[0] for space in spaces}
        if after is None:
            return


def _half(domain: SearchDomain, side: TowerSide, release: Release) -> Side:
    info = towers_info(side.tower.settings)
    return Side(release.collection_id, replace(towers_domain(domain), search_index_info=info))


def verdict(
    settings: GateSettings,
    before: Checkpoint,
    differences: Mapping[str, Estimate],
    searched: Found,
    held: Held,
    users: int,
) -> list[Rule]:
    """Hold what was found against a domain's thresholds; green passes when every rule does.

    Args:
        before: the checkpoint that serves.
        differences: metric -> green - blue, paired.
        users: tested, with enough engagements.
    """
    least = settings.least_sessions
    rules = [
        Rule(
            "users", least, users, users >= least,
            f"{users:,} users could be tested; at least {least:,} must be",
        )
    ]  # fmt: skip
    rules += [
        not_inferior(metric, name, differences.get(metric), settings.margin)
        for metric, name in RANKED.items()
    ]
    none, inf = float("nan"), float("inf")
    better = all(metric in differences and differences[metric].low > 0 for metric in RANKED)
    learned = before.trained != BEGUN
    overlap = weighted_mean(searched.overlap) if len(searched.overlap) else none
    coverage = searched.green / searched.blue if searched.blue else none
    missing = held.missing / held.objects if held.objects else none
    if learned and not better:
        rules.append(bounded("overlap", overlap, settings.least_overlap, inf, OVERLAP))
    if learned:
        rules.append(bounded("coverage", coverage, settings.least_coverage, inf, COVERAGE))
    return [*rules, bounded("missing", missing, -inf, settings.most_missing, MISSING)]
