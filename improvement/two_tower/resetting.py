"""Forget how engagement moved items: what they are then is what the candidate tower makes of them."""

from collections.abc import Iterable
from dataclasses import replace

import structlog

from improvement.two_tower.entries import EntryStore, Kind

log = structlog.get_logger()

#: Rounds after which an item that is moved all the time is given up; every round is one move by somebody.
ROUNDS = 20


def forget_moves(entries: EntryStore, domain: str, object_ids: Iterable[str]) -> int:
    """Take the vectors of these items out of their entries, which go on counting; return how many had one.

    Whoever moves one of them next begins at what the towers' collection holds.
    """
    keys, forgotten = [(Kind.ITEM, object_id) for object_id in dict.fromkeys(object_ids)], 0
    for _ in range(ROUNDS):
        moved = [entry for entry in entries.load(domain, keys).values() if entry.vector is not None]
        keys = list(entries.save([replace(one, vector=None, base=None, space="") for one in moved]))
        forgotten += len(moved) - len(keys)
        if not keys:
            return forgotten
    log.warning("moved again and again while it was to be forgotten", domain=domain, items=keys[:3])
    return forgotten
