"""Experiment: the arms of a domain's A/B test; data of the domain."""

from dataclasses import dataclass
from enum import StrEnum

from improvement.bounds import check_bounds
from improvement.evidence import EvidenceWeights

#: Characters of the names of experiments and arms.
MAX_NAME = 64
#: Most arms of an experiment.
MAX_ARMS = 100
#: `Arm.profile_weight` of `Treatment.PROFILE` where neither the arm nor the domain says one.
PROFILE_WEIGHT = 0.3


class Treatment(StrEnum):
    """What the users of an arm get."""

    #: The originals of what serves, for everybody the same: no copies, no profile.
    STATIC = "static"
    #: Personal copies, no profile.
    COPIES = "copies"
    #: Personal copies, and searches turned towards the profile; recommendations from it.
    PROFILE = "profile"
    #: Everything that the domain does by itself; the collection that the arm names, if it names one.
    POPULATION = "population"
    #: Recommendations by the two towers; searches as `COPIES`.
    TWO_TOWER = "two_tower"


class Metric(StrEnum):
    """What an experiment measures of a session."""

    #: Whether anything that it showed was liked: 0 or 1.
    CLICKTHROUGH = "clickthrough"
    #: The evidence of everything that it showed, added up, with its sign.
    EVIDENCE = "evidence"
    #: nDCG@10 of the list as it was shown, by what was liked; 0 where nothing was.
    NDCG = "ndcg"
    #: 1 / place of the first object that was liked; 0 where nothing was.
    MRR = "mrr"
    #: How many of the objects were disliked.
    DISLIKES = "dislikes"
    #: How many of the objects had an event of weight 5 or more.
    CONVERSIONS = "conversions"


@dataclass(frozen=True)
class Arm:
    """One arm of an experiment.

    Attributes:
        name: unique in its experiment, 1 to 64 characters.
        treatment: what its users get.
        share: how many of the users, compared with the other arms, > 0.
        evidence: how the events of its users become evidence; None: as the domain says (a weighting scheme).
            Not for `Treatment.STATIC`, which uses none.
        profile_weight: of its users' searches that do not say, 0..1; None: as the domain says, or 0.3 for
            `Treatment.PROFILE` where that is 0. For `Treatment.PROFILE` and `Treatment.POPULATION` only.
        collection: embedding_model_id of the collection that its users search, which must follow what
            serves; None: what serves. For `Treatment.POPULATION` only: a green collection not promoted yet.

    Raises:
        ValueError: naming the field and what was expected.
    """

    name: str
    treatment: Treatment
    share: float = 1.0
    evidence: EvidenceWeights | None = None
    profile_weight: float | None = None
    collection: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not isinstance(self.treatment, Treatment):
            raise ValueError(f"treatment: expected a Treatment, got {self.treatment!r}")
        check_bounds(
            self,
            {"share": (1e-9, 1e9), "profile_weight": (0.0, 1.0)},
            optional=frozenset({"profile_weight"}),
        )
        if self.evidence is not None and not isinstance(self.evidence, EvidenceWeights):
            raise ValueError(f"evidence: expected None or an EvidenceWeights, got {self.evidence!r}")
        if self.collection is not None and not (isinstance(self.collection, str) and self.collection):
            raise ValueError(f"collection: expected None or an embedding_model_id, got {self.collection!r}")
        for name, treatments in _ONLY_FOR.items():
            if getattr(self, name) is not None and self.treatment not in treatments:
                raise ValueError(f"{name}: expected None for the treatment {self.treatment.value!r}")


#: What some treatments use and others ignore; to ask for it in vain is a mistake.
_ONLY_FOR = {
    "evidence": frozenset(Treatment) - {Treatment.STATIC},
    "profile_weight": {Treatment.PROFILE, Treatment.POPULATION},
    "collection": {Treatment.POPULATION},
}


@dataclass(frozen=True)
class Experiment:
    """An A/B test over the users of a domain.

    Attributes:
        name: 1 to 64 characters; another name assigns everybody anew.
        arms: two to a hundred; the first is the control.
        percent: share of the users who take part, the others get what the domain does by itself, 0..100.
        level: chance that an interval holds, above 0 and below 1.
        primary: the metric that decides; the others explain.
        planned_sessions: sessions of two arms together at which the sequential intervals of their difference
            are the narrowest they can be, >= 1; far from it, either way, they are a little wider. Settle it
            before the first session, and never by what was found.

    Raises:
        ValueError: naming the field and what was expected.
    """

    name: str
    arms: tuple[Arm, ...]
    percent: float = 100.0
    level: float = 0.95
    primary: Metric = Metric.CLICKTHROUGH
    planned_sessions: int = 2_000

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not isinstance(self.arms, tuple) or not all(isinstance(arm, Arm) for arm in self.arms):
            raise ValueError(f"arms: expected a tuple of Arms, got {self.arms!r}")
        if not 2 <= len(self.arms) <= MAX_ARMS:
            raise ValueError(f"arms: expected 2 to {MAX_ARMS}, got {len(self.arms)}")
        if len({arm.name for arm in self.arms}) < len(self.arms):
            raise ValueError(f"arms: expected different names, got {[arm.name for arm in self.arms]}")
        if not isinstance(self.primary, Metric):
            raise ValueError(f"primary: expected a Metric, got {self.primary!r}")
        check_bounds(
            self, {"percent": (0.0, 100.0), "level": (1e-6, 1 - 1e-6), "planned_sessions": (1, 10**12)}
        )

    def arm(self, name: str | None) -> Arm | None:
        """Return the arm of that name, or None."""
        return next((arm for arm in self.arms if arm.name == name), None)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"name: expected 1 to {MAX_NAME} characters, got {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"name: expected valid Unicode, got {name!r}") from None
