"""Users of two arms who come again and again, each with a chance of their own to like what they see."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from clickstream.records import RegisteredSession, SearchResult, SessionEvent
from improvement.evidence import EvidenceWeights
from improvement.experiments.estimates import Difference, Sample, difference
from improvement.experiments.measured import Credit, credit
from improvement.experiments.results import Columns, Interleaved, results
from improvement.experiments.sequential import mixture
from improvement.experiments.settings import Arm, Experiment, Metric, Treatment


@dataclass(frozen=True)
class Log:
    """Sessions in the order they came."""

    who: np.ndarray
    arm: np.ndarray
    liked: np.ndarray
    people: int

    def looked(self, count: int, level: float = 0.95, planned: float = 2_000) -> Difference:
        """Compare the arms after so many sessions."""
        samples = []
        for arm in (1, 0):
            rows = np.flatnonzero(self.arm[:count] == arm)
            samples.append(Sample(self.who[rows], self.liked[rows], np.ones(len(rows)), self.people))
        return difference(samples[0], samples[1], level, mixture(planned, level))


def simulated(
    seed: int,
    sessions: int,
    people: int,
    effect: float = 0.0,
    spread: float = 2.0,
    *,
    chance: float = 0.3,
    share: float = 0.5,
) -> Log:
    """Return a log: users join over time, some come often; the second arm's chances are higher by ``effect``.

    ``spread`` is how alike users' chances are: small is not at all, large is all the same, around ``chance``;
    ``share`` of the users are in the second arm.
    """
    rng = np.random.default_rng(seed)
    arm = (rng.random(people) < share).astype(int)
    chances = np.clip(rng.beta(chance * spread, (1 - chance) * spread, people) + effect * arm, 0, 1)
    often = rng.pareto(1.5, people) + 0.2
    joined = np.sort(rng.random(people)) * 0.7
    when = np.linspace(0.02, 1, sessions)
    here = np.searchsorted(joined, when).clip(1)
    total = np.cumsum(often)
    who = np.searchsorted(total, rng.random(sessions) * total[here - 1]).clip(0, here - 1)
    return Log(who, arm[who], (rng.random(sessions) < chances[who]).astype(float), people)


PLACES = 10
EXPERIMENT = Experiment("e", (Arm("control", Treatment.STATIC), Arm("copies", Treatment.COPIES)))


@dataclass(frozen=True)
class MixedLog:
    """Mixed lists in the order they came, one a user."""

    credits: np.ndarray

    def looked(self, count: int) -> Interleaved:
        """Compare the lists after so many sessions."""
        none, who = np.zeros(0, int), np.arange(count)
        columns = Columns(
            users=[str(n) for n in who], who=none, arm=none, values=np.zeros((0, len(Metric))),
            mixed_who=who, mixed_arm=np.ones(count, int), credits=self.credits[:count],
        )  # fmt: skip
        found = results(EXPERIMENT, columns).arms[1].interleaved
        assert found is not None
        return found


def simulated_mixed(seed: int, sessions: int, ratio: float, preferred: float = 0.0) -> MixedLog:
    """Return a log of mixed lists of which one object each is liked, the higher the likelier.

    Each place is the baseline's with chance ``ratio``, as of rankings that are alike; of what would be liked
    of the baseline, ``preferred`` is left, and something of the other list is liked in its place.
    """
    rng = np.random.default_rng(seed)
    baseline = rng.random((4 * sessions, PLACES)) < ratio
    sizes = baseline.sum(axis=1)
    baseline = baseline[(sizes > 0) & (sizes < PLACES)][:sessions]
    chances = 1 / np.arange(1, PLACES + 1)
    liked = baseline[np.arange(len(baseline)), rng.choice(PLACES, len(baseline), p=chances / chances.sum())]
    liked &= rng.random(len(liked)) >= preferred
    both = zip(baseline.sum(axis=1).tolist(), liked.tolist(), strict=True)
    return MixedLog(np.array([_credit(size, of_baseline) for size, of_baseline in both]))


@cache
def _credit(size: int, of_baseline: bool) -> Credit:
    """The credit of a list with so many places of the baseline, and one object liked."""
    teams = ["baseline"] * size + ["personalised"] * (PLACES - size)
    shown = tuple(SearchResult(object_id=f"{n}", meta={"list": team}) for n, team in enumerate(teams))
    click = SessionEvent(event_id="1", object_id="0" if of_baseline else f"{PLACES - 1}")
    session = RegisteredSession(session_id="s", search_query="", search_results=shown, events=(click,))
    found = credit(session, EvidenceWeights())
    assert found is not None
    return found
