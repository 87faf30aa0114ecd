"""How good the answers are to queries that nobody typed before."""

from collections.abc import Mapping

import numpy as np

from demo.api import Api, ids
from demo.metrics import ndcg_at_k, relevance
from demo.show import Show
from demo.users import TOPICS

#: Results judged.
JUDGED = 10
#: Relevant object ids by user_id and topic name.
Relevant = Mapping[str, Mapping[str, frozenset[str]]]


def judge(
    show: Show, api: Api, name: str, relevant: Relevant, profile_weight: float = 0.0
) -> dict[str, float]:
    """Return each user's mean held-out nDCG@10, and under "mean" the mean over users."""
    lists: dict[str, list[list[str]]] = {user_id: [] for user_id in relevant}
    wanted: dict[str, list[frozenset[str]]] = {user_id: [] for user_id in relevant}
    asked = [
        (user, t, q) for user in relevant for t in TOPICS if t.name in relevant[user] for q in t.held_out
    ]
    with show.phase(name, len(asked)) as bar:
        for user_id, topic, query in asked:
            found = api.search(query, user_id, JUDGED, profile_weight=profile_weight)
            lists[user_id].append(ids(found))
            wanted[user_id].append(relevant[user_id][topic.name])
            bar.advance(bar.task_ids[0])
    scores = {
        user_id: float(
            ndcg_at_k(
                relevance(lists[user_id], wanted[user_id], JUDGED), [len(w) for w in wanted[user_id]], JUDGED
            ).mean()
        )
        for user_id in relevant
    }
    return {**scores, "mean": float(np.mean(list(scores.values())))}


def view(show: Show, api: Api, name: str, user_id: str) -> list[list[tuple[str, float]]]:
    """Return what a user sees, ids and distances, for every held-out query."""
    queries = [query for topic in TOPICS for query in topic.held_out]
    views = []
    with show.phase(name, len(queries)) as bar:
        for query in queries:
            found = api.search(query, user_id, JUDGED)
            views.append([(result["object_id"], result["distance"]) for result in found])
            bar.advance(bar.task_ids[0])
    return views
