"""HTTP for the batch of profiles by hand; routes only."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from improvement.errors import Conflict
from improvement.profiles.batch import BatchReport
from improvement.routes import chosen
from improvement.wiring import Rooms

#: Users one request makes the profiles of, unless it says; and at most.
USERS, MAX_USERS = 10_000, 100_000
#: Skipped and failed users listed with their reasons, of each kind.
LISTED = 1_000


def batch_router(rooms: Rooms) -> APIRouter:
    """Return the route that runs the batch now (role operator); its path is the published one."""
    router = APIRouter(tags=["profiles"])

    @router.get("/api/actions/batch-process")
    def batch_process(
        domain: str | None = None, limit: Annotated[int, Query(ge=1, le=MAX_USERS)] = USERS
    ) -> dict[str, Any]:
        """Make the profiles anew whose users acted, in one domain or in all, and say why not of the rest.

        Where learning is frozen nothing is made: 409 for a domain that is named. ``more`` says that ``limit``
        users were looked at and others may be waiting: ask again.
        """
        domains = list(rooms.domains.values()) if domain is None else [chosen(rooms.domains, domain)]
        frozen = rooms.learning.frozen(one.name for one in domains)
        if domain is not None and frozen:
            raise Conflict(f"learning is frozen in domain {domain!r}: {rooms.learning.of(domain).why}")
        reports: list[BatchReport] = []
        for one in domains:
            if one.name not in frozen:
                left = limit - sum(map(len, reports))
                slowed = one.at_rate(rooms.learning.of(one.name).rate)
                reports.append(rooms.batch.run(slowed, left))
        answers = [report.as_json() for report in reports]
        skipped, failed = ([why for one in answers for why in one[kind]] for kind in ("skipped", "failed"))
        return {
            "processed": sum(one["processed"] for one in answers),
            "skipped": skipped[:LISTED],
            "skipped_count": len(skipped),
            "failed": failed[:LISTED],
            "failed_count": len(failed),
            "more": sum(map(len, reports)) >= limit,
        }

    return router
