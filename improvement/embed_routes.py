"""HTTP for vectors of texts, histories and objects; routes only."""

from typing import Any

from fastapi import APIRouter

from improvement.routes import chosen
from improvement.schemas import Embed
from improvement.two_tower.embedding import Embedding
from improvement.wiring import Rooms


def embed_router(rooms: Rooms) -> APIRouter:
    """Return the route that embeds (role client)."""
    router = APIRouter(tags=["embed"])
    embedding = Embedding(rooms.vectors, rooms.releases, rooms.entries, rooms.towers)

    @router.post("/embed")
    def embed(body: Embed) -> dict[str, Any]:
        """Return unit vectors of texts, of a history of engagement, or of objects.

        `model: two_tower` (the default) is what serves the domain's towers; all its vectors are of one
        space, and `model_id`, the checkpoint's id, names it: compare vectors of equal `space` only.

        - `texts`: the frozen encoder, then the candidate tower, as for a new object (`is_pretrained: true`).
        - `history`: what somebody engaged with, through the user tower: one vector. Weights are the domain's
          evidence; what says nothing is passed over, `meta.unknown` names objects that are not there.
        - `object_ids`: vectors as they serve, one for each of `meta.object_ids`; `meta.is_pretrained` says of
          each whether nobody has engaged with it yet, `meta.unknown` names what is not there.

        `model: encoder` is the domain's text encoder, for `texts` only; prepared for the domain's metric.

        422 says what cannot be embedded and why; 503 where no towers serve yet.
        """
        return embedding.embed(chosen(rooms.domains, body.domain), body).as_json()

    return router
