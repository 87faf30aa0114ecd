"""TowerSettings: how a domain's two towers are shaped, learn and publish; data of the domain (seed 001)."""

from dataclasses import dataclass, field

from improvement.bounds import check_bounds, check_flags


@dataclass(frozen=True)
class TowerHealth:
    """When something about the towers is a warning, and when an alarm (the table of seed 001).

    Attributes:
        good_latency, most_latency: seconds that learning from one engagement takes: the target, and the
            95th percentile above which it is a warning.
        good_rate, least_rate: training pairs an hour: the target, and what is a warning below.
        good_negatives: negatives for one positive: between these two many is good.
        least_negatives, most_negatives: outside of these it is an alarm.
        good_drift, most_drift: mean cosine distance a day, of users or items: the target, and what is an
            alarm above.
        good_kept, least_kept: share of the nearest neighbours that items keep across a promotion: the target,
            and what is a warning below.
        good_cold_clicks, least_cold_clicks: click-through of items that are less than a day old.
        good_coverage, least_coverage: share of the active users with enough engagements who have a vector.
        least_items: share of the items of the last day that have a vector; below it is a warning.
        sample: users, and items, whose vectors are remembered from audit to audit, >= 1.
        least_pairs: pairs, impressions or users below which a share says nothing, >= 1.
        self_heal: whether an alarm of drift freezes learning, reverts to the last good checkpoint and goes on
            with half the rate by itself.
    """

    good_latency: float = 0.01
    most_latency: float = 0.05
    good_rate: float = 100.0
    least_rate: float = 10.0
    good_negatives: tuple[float, float] = (5.0, 10.0)
    least_negatives: float = 3.0
    most_negatives: float = 20.0
    good_drift: float = 0.1
    most_drift: float = 0.3
    good_kept: float = 0.7
    least_kept: float = 0.5
    good_cold_clicks: float = 0.01
    least_cold_clicks: float = 0.005
    good_coverage: float = 0.9
    least_coverage: float = 0.7
    least_items: float = 0.9
    sample: int = 1_000
    least_pairs: int = 100
    self_heal: bool = True

    def __post_init__(self) -> None:
        check_bounds(
            self,
            {
                "good_latency": (0.0, 3_600.0), "most_latency": (0.0, 3_600.0), "good_rate": (0.0, 1e9),
                "least_rate": (0.0, 1e9), "least_negatives": (0.0, 1e6), "most_negatives": (0.0, 1e6),
                "good_drift": (0.0, 2.0), "most_drift": (0.0, 2.0), "good_kept": (0.0, 1.0),
                "least_kept": (0.0, 1.0), "good_cold_clicks": (0.0, 1.0),
                "least_cold_clicks": (0.0, 1.0), "good_coverage": (0.0, 1.0), "least_coverage": (0.0, 1.0),
                "least_items": (0.0, 1.0), "sample": (1, 100_000), "least_pairs": (1, 10_000_000),
            },
        )  # fmt: skip
        check_flags(self, "self_heal")
        low, high = self.good_negatives
        if not self.least_negatives <= low <= high <= self.most_negatives:
            raise ValueError(
                f"good_negatives: expected two numbers from {self.least_negatives:.6g} to "
                f"{self.most_negatives:.6g}, got {self.good_negatives!r}"
            )


@dataclass(frozen=True)
class TowerSettings:
    """How the two towers of a domain are shaped, learn, publish and serve.

    Attributes:
        size: dimensions of the towers' space, 2..4096.
        hidden: units between the two layers of the candidate tower, 1..65536.
        layers, heads: of the user tower's Transformer, 0..12 and 1..64; heads divide ``size``.
        history: newest engagements of a user that the user tower reads, 1..500.
        authors, actions: rows of the lookup tables of authors and actions (ids are hashed), 1..1000000.
        author_field: payload field that names an object's author; None: there are none.
        realtime_rate: how far one engagement moves an item towards or away from its user, at full signal,
            0.001..0.01 (0 switches it off).
        user_rate: least share of an engagement in the user's vector, 0..1; the first ones count 1 / (1 + n)
            where that is less than 0.1, or 0.1 (seed 001: ``min(0.1, 1 / (n + 1))`` never falls below this).
        max_drift: farthest that engagements move an item from where its checkpoint put it, radians, 0..pi.
        engaged_from: least weight of evidence that makes an event an engagement; what is positive and weaker
            only says that the object was seen, > 0.
        prior: how many engagements the mean of everybody counts like in what the user tower makes of a user,
            0..1000: the fewer a user's own are, the more they are recommended what many like.
        min_engagements: engagements a user needs before the tower recommends to them, 1..1000 (seed: 10-20).
        candidate_every: engagements between two updates of the candidate tower, >= 1.
        negatives: drawn for each positive, 1..100 (seed: 5-10).
        negative_seconds: how long before an engagement what was shown counts as passed over, > 0; random
            negatives come from the same stretch.
        candidate_steps: gradient steps on each batch of the candidate tower, >= 1.
        temperature: of the contrastive loss, > 0.
        log_q: how much of the log-Q correction in-batch negatives get, 0 (none: popular items are held down)
            to 1 (all of it).
        candidate_rate, user_tower_rate: learning rates of the two optimisers, 0..1.
        weight_decay: of both, 0..1.
        row_rate, row_decay: learning rate of the items' own rows, and how fast these shrink, 0..1.
        user_every_seconds: seconds between two rounds of the user tower, > 0.
        user_batch: users in one of its gradient steps, 1..4096 (seed: 32-128).
        user_batches: gradient steps in one round at most, >= 1.
        margin: of the triplet loss, in cosines, 0..2.
        publish_hours: hours between two publications, > 0.
        auto_promote: whether what passes its gate serves without being asked.
        keep_checkpoints: newest checkpoints kept, beside those that serve, served or are good, >= 1.
        keep_previous: earlier towers' collections kept in line, to roll back to, 0..10.
        archive_days: days after which training pairs are archived, > 0.
        seed: of everything random.
        health: when to warn.

    Raises:
        ValueError: naming the field and what was expected.
    """

    size: int = 128
    hidden: int = 256
    layers: int = 1
    heads: int = 4
    history: int = 50
    authors: int = 8_192
    actions: int = 64
    author_field: str | None = "author"
    realtime_rate: float = 0.01
    user_rate: float = 0.05
    max_drift: float = 0.3
    engaged_from: float = 2.0
    prior: float = 5.0
    min_engagements: int = 10
    candidate_every: int = 1_000
    negatives: int = 5
    negative_seconds: float = 3_600.0
    candidate_steps: int = 2
    temperature: float = 0.2
    log_q: float = 1.0
    candidate_rate: float = 0.00003
    user_tower_rate: float = 0.00001
    weight_decay: float = 0.0
    row_rate: float = 0.03
    row_decay: float = 0.01
    user_every_seconds: float = 3_600.0
    user_batch: int = 128
    user_batches: int = 64
    margin: float = 0.2
    publish_hours: float = 24.0
    auto_promote: bool = True
    keep_checkpoints: int = 5
    keep_previous: int = 1
    archive_days: float = 30.0
    seed: int = 0
    health: TowerHealth = field(default_factory=TowerHealth)

    def __post_init__(self) -> None:
        check_bounds(
            self,
            {
                "size": (2, 4_096), "hidden": (1, 65_536), "layers": (0, 12), "heads": (1, 64),
                "history": (1, 500), "authors": (1, 1_000_000), "actions": (1, 1_000_000),
                "realtime_rate": (0.0, 0.01), "user_rate": (0.0, 1.0), "max_drift": (0.0, 3.1416),
                "engaged_from": (1e-9, 1e6), "prior": (0.0, 1_000.0), "min_engagements": (1, 1_000),
                "candidate_every": (1, 10_000_000), "negatives": (1, 100), "negative_seconds": (1e-3, 1e9),
                "candidate_steps": (1, 10_000), "temperature": (1e-4, 100.0), "candidate_rate": (0.0, 1.0),
                "user_tower_rate": (0.0, 1.0), "weight_decay": (0.0, 1.0), "log_q": (0.0, 1.0),
                "row_rate": (0.0, 1.0), "row_decay": (0.0, 1.0),
                "user_every_seconds": (1e-3, 1e9), "user_batch": (1, 4_096), "user_batches": (1, 1_000_000),
                "margin": (0.0, 2.0), "publish_hours": (1e-6, 1e6), "keep_checkpoints": (1, 10_000),
                "keep_previous": (0, 10), "archive_days": (1e-6, 1e6), "seed": (0, 2**63 - 1),
            },
        )  # fmt: skip
        check_flags(self, "auto_promote")
        if self.size % self.heads:
            raise ValueError(f"heads: expected a divisor of size {self.size}, got {self.heads}")
