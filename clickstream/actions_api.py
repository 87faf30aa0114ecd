"""HTTP for actions, the events outside a search; routes only."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException
from pydantic import Field

from clickstream.api import ClickstreamRooms, Rejected, check_count, check_time, in_domain, reason
from clickstream.records import Action, ReceivedAction, Record


class Actions(Record):
    """Body of `POST /actions`; each action is checked by itself."""

    actions: Annotated[list[Any], Field(min_length=1)]


class ActionsReceipt(Record):
    """Answer to many actions at once; the three add up to what was sent.

    Attributes:
        accepted: how many are stored now and were not before.
        repeated: how many were known already, or came twice in this request.
    """

    accepted: int
    repeated: int
    rejected: list[Rejected]


def create_actions_router(
    rooms: ClickstreamRooms, push: Callable[[Sequence[Action]], Sequence[ReceivedAction]]
) -> APIRouter:
    """Return the route for events outside a search (role client).

    Args:
        push: takes actions, their domain filled in, and returns those of them that were new.
    """
    router = APIRouter(tags=["actions"])

    @router.post("/actions")
    def push_actions(body: Actions) -> ActionsReceipt:
        """Register actions, each answered by itself; a user's repeated action_id is ignored."""
        check_count(rooms, body.actions)
        actions, rejected = [], []
        for index, given in enumerate(body.actions):
            try:
                actions.append(checked(rooms, given))
            except HTTPException as error:  # what refuses a whole session refuses one action here
                rejected.append(Rejected(index=index, reason=error.detail))
            except ValueError as error:
                rejected.append(Rejected(index=index, reason=reason(error)))
        new = len(push(actions))
        return ActionsReceipt(accepted=new, repeated=len(actions) - new, rejected=rejected)

    return router


def checked(rooms: ClickstreamRooms, given: Any) -> Action:
    """Return one action of the body with its domain filled in.

    Raises:
        ValueError: it is no action; names the field and what was expected.
        HTTPException: its domain is not configured, or its time is outside the window.
    """
    if not isinstance(given, dict):
        raise ValueError("expected an object with action_id, user_id, object_id and action_type")
    action = in_domain(Action.model_validate(given), rooms.domains)
    check_time(rooms, action.created_at)
    return action
