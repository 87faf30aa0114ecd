"""How likely each place of a list is looked at, estimated from the domain's own log; pure numpy."""

from array import array
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clickstream.records import RegisteredSession

#: Places told apart; what stands farther down is as likely as the last of them.
MAX_PLACES = 100
#: Sessions, and clicks on what was shown at several places, below which the log says too little.
MIN_SESSIONS, MIN_CLICKS = 1_000, 500
#: Impressions of what was shown at several places, below which a place and those after it say too little.
MIN_IMPRESSIONS = 300
#: Impressions of a pair below which its relevance is too vague to tell it from its places. Pairs shown so
#: rarely at many places still make low places seem looked at more than they are: it corrects too little.
MIN_SHOWN = 20
#: Smallest propensity told.
FLOOR = 0.01
#: Weight of the prior on relevance, in impressions.
PRIOR = 0.5
#: Rounds of EM.
ROUNDS = 300


@dataclass(frozen=True, eq=False)
class Impressions:
    """What a log showed, one row an impression.

    Attributes:
        sessions: how many sessions they come from.
        places: (n,) whole numbers, 0 = first.
        clicked: (n,) bool.
        pairs: (n,) whole numbers, equal for the same object under the same query.
    """

    sessions: int
    places: NDArray[np.int64]
    clicked: NDArray[np.bool_]
    pairs: NDArray[np.int64]


def impressions(sessions: Iterable[RegisteredSession], click_events: Collection[str]) -> Impressions:
    """Return what these sessions showed at the first `MAX_PLACES` places, and what of it was clicked.

    Sessions without a click are in it: to leave them out is to choose by the outcome. Of lists with one
    relevant object, only those would be left in which it was clicked, and every place would look alike.
    Sessions marked irrelevant are not.
    """
    count, places, clicked, pairs = 0, array("H"), array("B"), array("q")
    for session in sessions:
        if session.is_irrelevant:
            continue
        count += 1
        clicks = {event.object_id for event in session.events if event.event_type in click_events}
        for place, result in enumerate(session.search_results[:MAX_PLACES]):
            places.append(place)
            clicked.append(result.object_id in clicks)
            pairs.append(hash((session.search_query, result.object_id)))  # 8 bytes each, however many
    return Impressions(
        sessions=count,
        places=np.asarray(places, np.int64),
        clicked=np.asarray(clicked, np.bool_),
        pairs=np.asarray(pairs, np.int64),
    )


def estimate_propensities(
    places: ArrayLike,
    clicked: ArrayLike,
    pairs: ArrayLike,
    *,
    min_clicks: int = MIN_CLICKS,
    min_impressions: int = MIN_IMPRESSIONS,
    min_shown: int = MIN_SHOWN,
    floor: float = FLOOR,
) -> NDArray[np.float64]:
    """Return the chance that each place is looked at, relative to the first, in floor..1: (K,).

    The position-based click model ``P(click) = examination[place] * relevance[pair]`` (M. Richardson,
    E. Dominowska, R. Ragno, "Predicting Clicks: Estimating the Click-Through Rate for New Ads", WWW 2007),
    fitted by EM (A. Chuklin, I. Markov, M. de Rijke, "Click Models for Web Search", 2015, chapter 4): an
    impression without a click was examined all the same with probability ``e (1 - r) / (1 - e r)`` and
    relevant with ``r (1 - e) / (1 - e r)``. Relevance has a Beta prior of weight `PRIOR` around the mean of
    all pairs. Clicks cannot tell the scale of both: the first place's examination is made 1 in the end.

    Only pairs shown at several places, and `min_shown` times, are used: the others cannot tell their
    relevance from their place, and the prior would have them say what the click-through ratio says.

    Where objects stand higher for those users who like them, as with personal copies, part of that is taken
    for the place: low places then seem less looked at than they are.

    Args:
        places: (n,) whole numbers >= 0, 0 = first; those from `MAX_PLACES` on are left out.
        clicked: (n,) truth values.
        pairs: (n,) whole numbers that name the pair of query and object.
        min_clicks: clicks without which nothing is said.
        min_impressions: impressions without which nothing is said of a place, nor of those after it.
        min_shown: impressions without which a pair is not used.
        floor: the smallest value told.

    Returns:
        Up to `MAX_PLACES` values; none, which means uniform, where there is too little to tell.

    Raises:
        ValueError: the arrays differ in shape, or a place is negative.
    """
    where, what = np.asarray(places, np.int64), np.asarray(pairs, np.int64)
    hits = np.asarray(clicked, np.bool_)
    if not where.shape == hits.shape == what.shape == (where.size,):
        raise ValueError(
            "places, clicked, pairs: expected three rows of one length, "
            f"got {where.shape}, {hits.shape}, {what.shape}"
        )
    if (where < 0).any():
        raise ValueError(f"places: expected whole numbers >= 0, got {where.min()}")
    near = where < MAX_PLACES
    which = np.unique(what[near], return_inverse=True)[1]
    cells, cell = np.unique(which * MAX_PLACES + where[near], return_inverse=True)
    shown = np.bincount(cell, np.ones(len(cell)))  # of each pair at each place
    clicks = np.bincount(cell, hits[near])
    pair, place = np.divmod(cells, MAX_PLACES)
    telling = (np.bincount(pair)[pair] > 1) & (np.bincount(pair, shown)[pair] >= min_shown)
    shown, clicks, place = shown[telling], clicks[telling], place[telling]
    pair = np.unique(pair[telling], return_inverse=True)[1]
    at = np.bincount(place, shown, MAX_PLACES)
    enough = int(np.argmin(np.append(at >= max(1, min_impressions), False)))
    if clicks.sum() < max(1, min_clicks) or enough < 2:
        return np.empty(0)
    examination = _examination(shown, clicks, pair, place, at)[:enough]
    return np.clip(examination, floor, 1.0)


def _examination(
    shown: NDArray[Any], clicks: NDArray[Any], pair: NDArray[Any], place: NDArray[Any], at: NDArray[Any]
) -> NDArray[np.float64]:
    of = np.bincount(pair, shown)
    examination, relevance = np.full(len(at), 0.5), np.full(len(of), 0.5)
    for _ in range(ROUNDS):
        e, r = examination[place], relevance[pair]
        missed = (shown - clicks) / np.maximum(1 - e * r, 1e-12)
        examined = np.bincount(place, clicks + missed * e * (1 - r), minlength=len(at))
        relevant = np.bincount(pair, clicks + missed * r * (1 - e))
        examination = np.divide(examined, at, out=np.ones_like(at), where=at > 0)
        relevance = (relevant + PRIOR * relevant.sum() / of.sum()) / (of + PRIOR)
    examination = np.maximum(examination, 1e-9)  # of a place that nobody clicks, too
    relative: NDArray[np.float64] = examination / examination[0]
    return relative
