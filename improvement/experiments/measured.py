"""What one session says of the list it showed: the metrics of an experiment, and who won a mixed list."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from clickstream.records import RegisteredSession
from improvement.evaluation.metrics import ndcg, reciprocal_rank
from improvement.evidence import EvidenceWeights
from improvement.experiments.settings import Metric
from improvement.interleaving import Team

#: Least weight of an event that is a conversion.
CONVERSION = 5.0
#: Places that nDCG looks at.
PLACES = 10


class Credit(NamedTuple):
    """What a mixed list says for each of its teams, >= 0: liked objects, as if the teams were equal.

    Attributes:
        variance: of the one less the other, if which team an object came from played no part.
    """

    personalised: float
    baseline: float
    variance: float


def measured(session: RegisteredSession, evidence: EvidenceWeights) -> dict[Metric, float]:
    """Return each metric of a session; every session has them all.

    An object is liked if its events' weights add up to more than 0, disliked if to less. A list of which
    nothing was liked has an nDCG and a reciprocal rank of 0: to leave it out would compare the lists that
    were liked, which the arms themselves choose.

    Args:
        evidence: what events are worth; the same for all arms, for else they would not compare.
    """
    weights = _weights(session, evidence)
    totals = {object_id: math.fsum(of) for object_id, of in weights.items()}
    liked = [totals.get(result.object_id, 0.0) > 0 for result in session.search_results]
    found = any(liked)
    return {
        Metric.CLICKTHROUGH: float(found),
        Metric.EVIDENCE: math.fsum(evidence.of(session).values()),
        Metric.NDCG: ndcg(liked, sum(liked), PLACES) if found else 0.0,
        Metric.MRR: reciprocal_rank(liked) if found else 0.0,
        Metric.DISLIKES: float(sum(total < 0 for total in totals.values())),
        Metric.CONVERSIONS: float(sum(max(of) >= CONVERSION for of in weights.values())),
    }


def is_mixed(session: RegisteredSession) -> bool:
    """Say whether the session was to show two rankings in one list, see `improvement.interleaving`.

    By the request, not by what it found: personal arms alone would lose what they explored in vain.
    """
    return bool(session.mixed) or any(_team(result.meta) is not None for result in session.search_results)


def credit(session: RegisteredSession, evidence: EvidenceWeights) -> Credit | None:
    """Return what a mixed list says for each team; None if one had no place in it, or part was not mixed.

    The coin that gives out places need not be fair, and the larger team is liked more often for its size
    alone. So each team's liked objects are multiplied by the share of places that the *other* one had, twice:
    were the rankings alike, each place would be either team's by the same chance, and both had the same to
    expect. Lists with nearly all places for one team, which say little, thereby count little (Mantel and
    Haenszel 1959); dividing by a team's own places lets the rare likes of small teams decide everything.
    """
    teams = {result.object_id: _team(result.meta) for result in session.search_results}
    places = {team: sum(one is team for one in teams.values()) for team in Team}
    if None in teams.values() or not all(places.values()):
        return None
    totals = {object_id: math.fsum(of) for object_id, of in _weights(session, evidence).items()}
    liked = {
        team: sum(total > 0 and teams[object_id] is team for object_id, total in totals.items())
        for team in Team
    }
    every = sum(places.values())
    mine, theirs = (2 * places[team] / every for team in (Team.PERSONALISED, Team.BASELINE))
    # each liked object is +theirs with chance mine / 2, -mine with chance theirs / 2
    variance = mine * theirs * sum(liked.values())
    return Credit(theirs * liked[Team.PERSONALISED], mine * liked[Team.BASELINE], variance)


def _weights(session: RegisteredSession, evidence: EvidenceWeights) -> dict[str, list[float]]:
    """Return the weights of the events of each object that was shown and has any."""
    shown = {result.object_id for result in session.search_results}
    weights: dict[str, list[float]] = {}
    for event in session.events:
        if event.object_id in shown:
            weights.setdefault(event.object_id, []).append(evidence.weight(event.event_type, event.meta))
    return weights


def _team(meta: Mapping[str, object] | None) -> Team | None:
    said = (meta or {}).get("list")
    return next((team for team in Team if team.value == said), None)
