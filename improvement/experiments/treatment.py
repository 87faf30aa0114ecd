"""What the arms of an experiment do to a user's searches, recommendations and copies: the one place; pure."""

from dataclasses import dataclass, replace
from typing import Any

from improvement.domain import SearchDomain
from improvement.evidence import EvidenceWeights
from improvement.experiments.assignment import assigned
from improvement.experiments.settings import PROFILE_WEIGHT, Arm, Experiment, Treatment


@dataclass(frozen=True)
class Treated:
    """What one user gets; by itself what everybody gets outside of experiments.

    Attributes:
        experiment: the one that the user takes part in, and ``arm``; None, and None, of others.
        copies: whether the user's own copies are searched.
        profile: whether the user's profile turns searches and makes recommendations.
        profile_weight: of searches that do not say; None: as the domain says.
        least_weight: what it is where the domain says 0.
        two_tower: whether the two towers recommend where the request does not say who.
        collection: embedding_model_id of the collection to search; None: what serves.
        mixed: whether the request has two rankings mixed, whatever they find.
        uncounted: why the session does not count for the arm; None: it does.
    """

    experiment: str | None = None
    arm: str | None = None
    copies: bool = True
    profile: bool = True
    profile_weight: float | None = None
    least_weight: float = 0.0
    two_tower: bool = False
    collection: str | None = None
    mixed: bool = False
    uncounted: str | None = None

    def weight(self, asked: float | None, by_domain: float) -> float:
        """Return a search's profile weight: as asked for, or else the arm's, or else the domain's."""
        if asked is not None:
            return asked
        if self.profile_weight is not None:
            return self.profile_weight
        return (by_domain or self.least_weight) if self.profile else 0.0

    def but(self, why: str | None) -> "Treated":
        """Return the same, not counted for that reason, if there is one."""
        return self if why is None or self.uncounted is not None else replace(self, uncounted=why)

    def as_usual(self, why: str) -> "Treated":
        """Return what everybody gets outside of experiments, not counted for that reason."""
        return Treated(self.experiment, self.arm, uncounted=why)

    @property
    def named(self) -> dict[str, Any]:
        """What the session says of it: nothing if it does not count."""
        if self.experiment is None or self.uncounted is not None:
            return {}
        return {"experiment": self.experiment, "arm": self.arm, "mixed": self.mixed or None}

    @property
    def meta(self) -> dict[str, Any]:
        """What the answer says of it."""
        if self.experiment is None:
            return {}
        why = {} if self.uncounted is None else {"not_counted": self.uncounted}
        return {"experiment": {"name": self.experiment, "arm": self.arm, **why}}


def treated(domain: SearchDomain, user_id: str | None) -> Treated:
    """Return what a user of a domain gets."""
    experiment = domain.experiment
    arm = assigned(experiment, user_id)
    if experiment is None or arm is None:
        return Treated()
    return _treated(Treated(experiment.name, arm.name), arm)


def evidence_for(
    experiment: Experiment | None, user_id: str | None, usual: EvidenceWeights
) -> EvidenceWeights:
    """Return what a user's events are worth for their copies, and to their profile when they searched.

    Whatever is of everybody keeps the usual weights, the domain's: popularity, population, towers, gates,
    audits, and the metrics of experiments. So do actions outside of searches.
    """
    arm = assigned(experiment, user_id)
    return usual if arm is None or arm.evidence is None else arm.evidence


def all_evidence(domain: SearchDomain) -> list[EvidenceWeights]:
    """Return every way in which events of a domain's users become evidence."""
    arms = () if domain.experiment is None else domain.experiment.arms
    return [domain.evidence, *(arm.evidence for arm in arms if arm.evidence is not None)]


def _treated(plain: Treated, arm: Arm) -> Treated:
    match arm.treatment:
        case Treatment.STATIC:
            return replace(plain, copies=False, profile=False)
        case Treatment.COPIES:
            return replace(plain, profile=False)
        case Treatment.PROFILE:
            return replace(plain, profile_weight=arm.profile_weight, least_weight=PROFILE_WEIGHT)
        case Treatment.POPULATION:
            return replace(plain, profile_weight=arm.profile_weight, collection=arm.collection)
        case Treatment.TWO_TOWER:
            return replace(plain, profile=False, two_tower=True)
