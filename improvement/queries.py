"""The queries of sessions as vectors of one embedding space."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from clickstream.improvement_queue import Outcome, Status
from clickstream.records import QueryVector, RegisteredSession
from improvement.domain import SearchDomain
from improvement.objects import Vectors


@dataclass(frozen=True)
class Queries:
    """Queries in one space, by session id.

    Attributes:
        vectors: prepared, (M, D) each.
        embedded: those of them that the session did not know yet.
        verdicts: why other sessions have none.
    """

    vectors: dict[str, Vectors] = field(default_factory=dict)
    embedded: dict[str, QueryVector] = field(default_factory=dict)
    verdicts: dict[str, Outcome] = field(default_factory=dict)


def queries_of(domain: SearchDomain, sessions: Iterable[RegisteredSession]) -> Queries:
    """Return these sessions' queries in a domain's space, embedding what is not known; each text once."""
    space = domain.encoder.model_id
    queries = Queries()
    texts: dict[str, list[str]] = {}
    for session in sessions:
        vector = session.query_vector
        if vector is not None and vector.model_id == space:
            queries.vectors[session.session_id] = np.asarray(vector.vectors, dtype=np.float32)
        elif session.search_query:
            texts.setdefault(session.search_query, []).append(session.session_id)
        else:
            why = (
                "it has no query text" if vector is None else f"its query is a vector of {vector.model_id!r}"
            )
            queries.verdicts[session.session_id] = Outcome(Status.SKIPPED, f"no query vector: {why}")
    for session_ids, row in zip(texts.values(), _embedded(domain, list(texts)), strict=True):
        for session_id in session_ids:
            if isinstance(row, Exception):
                queries.verdicts[session_id] = failed(row)
            else:
                queries.vectors[session_id] = row[None, :]
                queries.embedded[session_id] = QueryVector(model_id=space, vectors=(tuple(row.tolist()),))
    return queries


def _embedded(domain: SearchDomain, texts: list[str]) -> list[Vectors | Exception]:
    """Embed all texts at once, or in halves where that fails, so that one bad text fails alone."""
    if not texts:
        return []
    try:
        return list(domain.embed(texts))
    except Exception as error:  # the encoder's, or what prepares vectors: plugin code
        if len(texts) == 1:
            return [error]
        half = len(texts) // 2
        return _embedded(domain, texts[:half]) + _embedded(domain, texts[half:])


def failed(error: Exception) -> Outcome:
    """Return the outcome of what a plugin could not do."""
    return Outcome(Status.FAILED, f"{type(error).__name__}: {error}")
