"""The service as a client sees it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

Found = list[dict[str, Any]]
#: Seconds from a session's start to its first click, and between two clicks; under 10 s would be a bounce.
FIRST_CLICK, NEXT_CLICK = 12, 5


@dataclass(frozen=True)
class Api:
    """The service as a client sees it."""

    http: httpx.Client

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON answer; anything but success ends the demo with the server's words."""
        answer = self.http.request(method, f"/api/v1{path}", json=body)
        if answer.is_error:
            raise SystemExit(f"{method} {path}: {answer.status_code} {answer.text[:1000]}")
        return answer.json()

    def search(
        self, query: str, user_id: str, limit: int, session_id: str | None = None, profile_weight: float = 0.0
    ) -> Found:
        """Search as a user; with a session_id the server registers the session and what it showed."""
        session = {"session_id": session_id, "create_session": True} if session_id else {}
        body = {"search_query": query, "user_id": user_id, "limit": limit, "profile_weight": profile_weight}
        body |= session
        results: Found = self.call("POST", "/embeddings/similarity-search", body)["search_results"]
        return results

    def recommend(self, user_id: str, limit: int) -> tuple[Found, str]:
        """Return what the user may like and has not acted on yet, and where it comes from."""
        answer = self.call("POST", "/recommend", {"user_id": user_id, "limit": limit})
        return answer["search_results"], answer["meta"]["source"]

    def click(self, session_id: str, object_ids: Sequence[str]) -> None:
        """Report clicks some seconds apart."""
        now = int(time.time())
        events = [
            {"event_id": f"{session_id}/{n}", "object_id": object_id, "event_type": "click",
             "created_at": now + FIRST_CLICK + n * NEXT_CLICK}
            for n, object_id in enumerate(object_ids)
        ]  # fmt: skip
        if events:
            body = {"session_id": session_id, "events": events}
            self.call("POST", "/clickstream/session/events", body)

    def queue(self) -> dict[str, int]:
        """Return how many sessions are pending, done, skipped and failed."""
        counts: dict[str, int] = self.call("GET", "/clickstream/internal/queue")
        return counts

    def blue(self) -> str:
        """Return the embedding model id of the serving collection."""
        return str(self.call("GET", "/internal/vectordb/collections/get-blue-info")["embedding_model"]["id"])


def ids(found: Found) -> list[str]:
    """Return the object ids of an answer, best first."""
    return [result["object_id"] for result in found]
