"""Replay the service's own log: learn from its earlier sessions, rank again what its later ones showed.

Nothing is written. `docs/replay.md` says what this can tell and what it cannot.
"""

from collections.abc import Sequence

from clickstream.store import ClickstreamStore
from improvement.domain import SearchDomain
from improvement.errors import Invalid
from improvement.evaluation.judging import Judge, Judged
from improvement.evaluation.learned import learn
from improvement.evaluation.report import Report
from improvement.evaluation.sessions import (
    Progress,
    Tally,
    by_users,
    known_before,
    query_vectors,
    reasons,
    usable_sessions,
)
from improvement.evidence import happened_at
from improvement.profiles.settings import ProfileSettings
from improvement.vectors import VectorStore


def replay_log(
    clickstream: ClickstreamStore,
    vectors: VectorStore,
    collection: str,
    domain: SearchDomain,
    *,
    method: str | None,
    profiles: ProfileSettings | None = None,
    propensities: Sequence[float] = (),
    limit: int = 10_000,
    test_share: float = 0.2,
    seed: int = 0,
    progress: Progress = lambda what, count: None,
) -> Report:
    """Learn from a domain's earlier sessions, and rank again what its later ones showed.

    Args:
        collection: where the originals are.
        domain: its selector says which sessions count and what a click is; its evidence and its adjuster
            make the copies.
        method: what to call ranking with copies; None makes none.
        profiles: how profiles are made and used; None makes none.
        propensities: chance, in 0..1, that each place is looked at; none means that all are certain.
        limit: sessions read, the newest ones.
        test_share: share of the usable sessions, the latest, to test on; above 0 and below 1.
        seed: of the bootstrap.
        progress: called with what was done ("read", "embedded", "judged") and how many more of it.

    Returns:
        Rows "as shown", "no learning", ``method``, and ``method`` "+ profile", with the metrics ndcg@10, mrr,
        ips_ndcg@10, ips_mrr.

    Raises:
        Invalid: there are not two usable sessions, or none of the later ones can be judged; it says why.
        ValueError: a setting is out of its range, or the adjuster refused a batch.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share: expected a number above 0 and below 1, got {test_share}")
    tally = Tally()
    usable = usable_sessions(
        clickstream.history(domain.name, limit=limit), domain, propensities, tally, progress
    )
    if len(usable) < 2:
        raise Invalid(
            f"domain {domain.name!r}: expected at least 2 usable sessions, got {len(usable)} of "
            f"{tally.read}{reasons(tally.unusable)}"
        )
    split = len(usable) - min(len(usable) - 1, max(1, round(len(usable) * test_share)))
    train, test = usable[:split], usable[split:]
    train = known_before(happened_at(test[0].session), train, domain, propensities)
    users = {one.session.user_id for one in test}
    learning = method is not None or profiles is not None
    taught = [one for one in train if one.session.user_id in users and one.weights and learning]
    asked = [] if method is None else taught  # profiles need what was liked, not what was asked
    queries = query_vectors(domain, [one.session for one in (*asked, *test)], progress)
    judge = Judge(domain, method, propensities, profiles)
    judged: list[Judged] = []
    for some_taught, some_test in by_users(taught, test):
        learned = learn(
            vectors, collection, domain, some_taught, some_test, queries, tally,
            copies=method is not None, profiles=profiles,
        )  # fmt: skip
        for one in some_test:
            missing = [r for r in one.session.search_results if r.object_id not in learned.originals]
            tally.objects_missing += len(missing)
            query = queries[one.session.session_id]
            profile = learned.profiles.get(str(one.session.user_id))
            found = (
                query
                if isinstance(query, str)
                else judge.judge(one.session, query, learned.originals, learned.copies, profile)
            )
            if isinstance(found, str):
                tally.not_judged[found] += 1
            else:
                judged.append(found)
        progress("judged", len(some_test))
    if not judged:
        raise Invalid(
            f"domain {domain.name!r}: none of its {len(test)} test sessions can be judged"
            f"{reasons(tally.not_judged)}"
        )
    source = {
        "log": domain.name,
        "collection": collection,
        "sessions_read": tally.read,
        "usable": len(usable),
        "train": len(train),
        "test": len(test),
        "split_at": happened_at(test[0].session),
        "judged": len(judged),
        "judged_with_copies": sum(one.has_copies for one in judged),
        **({} if profiles is None else {"judged_with_profile": sum(one.has_profile for one in judged)}),
        "users": len({one.user_id for one in judged}),
        "objects_missing": tally.objects_missing,
        "unusable": tally.unusable,
        "not_taught": tally.not_taught,
        "not_judged": tally.not_judged,
        "propensities": propensities,
        "seed": seed,
    }
    return Report(source, judge.rows(judged, seed))
