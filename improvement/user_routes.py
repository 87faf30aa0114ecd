"""HTTP for erasing users; routes only."""

from fastapi import APIRouter

from improvement.erasure import erase_user
from improvement.profile_routes import UserId  # and the kind of path, "any", that holds every id
from improvement.wiring import Rooms


def users_router(rooms: Rooms) -> APIRouter:
    """Return the route that erases a user (role operator)."""
    router = APIRouter(tags=["users"])

    @router.delete("/users/{user_id:any}")
    def erase(user_id: UserId) -> dict[str, int]:
        """Erase a user everywhere, and say how much of each kind there was; 0 for an unknown one."""
        return erase_user(rooms, user_id).as_json()

    return router
