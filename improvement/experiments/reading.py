"""Read what the sessions of a domain's experiment say, from the clickstream."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import structlog

from clickstream.records import RegisteredSession
from clickstream.store import ClickstreamStore
from improvement.domain import SearchDomain
from improvement.errors import Invalid, NotFound
from improvement.experiments.measured import Credit, credit, is_mixed, measured
from improvement.experiments.results import Columns, Results, results
from improvement.experiments.settings import Experiment, Metric

log = structlog.get_logger()

#: Sessions read at most, the first ones of the period.
MOST_SESSIONS = 100_000


def experiment_results(
    clickstream: ClickstreamStore, domain: SearchDomain, since: float, until: float, most: int = MOST_SESSIONS
) -> Results:
    """Return what the sessions of a domain's experiment show.

    Those registered from ``since`` until before ``until``, in seconds since 1970 by the server's clock. Only
    sessions count that name the experiment as it is called now, and one of the arms that it has now. The
    start must stay where it is from look to look: what always holds does so for a sample that grows.

    Args:
        most: sessions read at most, the first ones.

    Raises:
        NotFound: the domain has no experiment.
        Invalid: the period ends before it begins.
    """
    if domain.experiment is None:
        raise NotFound(f"domain {domain.name!r} has no experiment")
    if until < since:
        raise Invalid(f"until: expected {since:.6f} (since) or later, got {until:.6f}")
    pages = clickstream.of_experiment(domain.name, domain.experiment.name, since, until, most)
    sessions = (session for page in pages for session in page)
    return results(domain.experiment, columns(domain, domain.experiment, sessions, most))


def columns(
    domain: SearchDomain, experiment: Experiment, sessions: Iterable[RegisteredSession], most: int
) -> Columns:
    """Return what sessions say, by the domain's own evidence for all arms, and why others do not count."""
    places = {arm.name: place for place, arm in enumerate(experiment.arms)}
    numbers: dict[str, int] = {}
    plain: list[tuple[int, int, list[float]]] = []
    mixed: list[tuple[int, int, Credit]] = []
    left_out: Counter[str] = Counter()
    count, latest = 0, None
    for session in sessions:
        count, latest = count + 1, session.registered_at
        place = places.get(session.arm or "")
        if place is None:
            left_out["of an arm that is not configured"] += 1
        elif session.user_id is None:
            left_out["without a user"] += 1
        elif session.is_irrelevant:
            left_out["marked irrelevant"] += 1
        else:
            try:
                if is_mixed(session):
                    found = credit(session, domain.evidence)
                    if found is None:
                        left_out["mixed lists without both lists in them"] += 1
                        continue
                    mixed.append((numbers.setdefault(session.user_id, len(numbers)), place, found))
                else:
                    said = measured(session, domain.evidence)
                    row = [said[metric] for metric in Metric]
                    plain.append((numbers.setdefault(session.user_id, len(numbers)), place, row))
            except Exception as error:  # a plugin's own evidence may raise anything
                left_out["could not be judged"] += 1
                log.warning("session not judged", session_id=session.session_id, error=repr(error)[:500])
    return Columns(
        users=list(numbers),
        who=np.array([who for who, _, _ in plain], np.int64),
        arm=np.array([place for _, place, _ in plain], np.int64),
        values=np.array([row for _, _, row in plain], np.float64).reshape(-1, len(Metric)),
        mixed_who=np.array([who for who, _, _ in mixed], np.int64),
        mixed_arm=np.array([place for _, place, _ in mixed], np.int64),
        credits=np.array([found for _, _, found in mixed], np.float64).reshape(-1, len(Credit._fields)),
        left_out=dict(left_out),
        cut_at=latest if count >= most else None,
    )
