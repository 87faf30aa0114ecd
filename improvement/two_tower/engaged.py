"""Entries of users and items after engagements, one after the other; pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from improvement.objects import Vectors
from improvement.two_tower.engagement import Engagement
from improvement.two_tower.entries import HEARD, Before, Entry, Kind, short
from improvement.two_tower.facts import Past
from improvement.two_tower.moves import moved_item, moved_user, user_of
from improvement.two_tower.reading import author_of
from improvement.two_tower.settings import TowerSettings
from improvement.two_tower.user_vectors import faded
from improvement.vectors import Told

Key = tuple[Kind, str]


@dataclass
class After:
    """What engagements lead to.

    Attributes:
        entries: of their users and items, by key; those that are as they were are the same objects.
        before: of each engagement the vectors of its user and item before it; none where nobody knows them.
        authors: of each engagement the author of its object.
    """

    entries: dict[Key, Entry]
    before: dict[str, Before] = field(default_factory=dict)
    authors: dict[str, str | None] = field(default_factory=dict)


def begun(entry: Entry, space: str, said: Mapping[str, Told], keep: float) -> Entry:
    """Return an entry in this space; one of another, or of other content, has its vector begun anew.

    A user's is the signed mean of the items engaged with, the newer the more, see `faded`; an item's is what
    its collection holds.
    """
    if entry.space == space and not _is_old(entry, said):
        return entry
    anew = replace(entry, space=space, vector=None, base=None, content="")
    if entry.kind is Kind.ITEM:
        return anew
    known = [(mean, one.signal) for one in entry.pasts if (mean := _mean(said, one.object_id)) is not None]
    signals = faded([signal for _, signal in known], keep).tolist()
    return replace(anew, vector=user_of([mean for mean, _ in known], signals))


def engaged(
    entries: Mapping[Key, Entry],
    engagements: Iterable[Engagement],
    said: Mapping[str, Told],
    space: str,
    settings: TowerSettings,
    rate: float = 1.0,
    stored: Collection[str] = (),
) -> After:
    """Return entries after engagements, which move user and item as both were before each.

    An engagement that an entry knows does not move it again. A user without a vector moves no item. An object
    without a direction in the collection moves nothing; its engagement is remembered all the same.

    Args:
        entries: those that there are; the others are begun.
        engagements: of one domain, each once.
        said: what the serving collection says of the objects, and of those that users of another space
            engaged with before.
        rate: share of the domain's learning rates, in (0, 1].
        stored: ids of earlier engagements whose training pairs are stored: what was before them is let go.
    """
    engagements = list(engagements)
    after = After({key: begun(entry, space, said, 1 - settings.user_rate) for key, entry in entries.items()})
    for one in engagements:
        for key in ((Kind.USER, one.user_id), (Kind.ITEM, one.object_id)):
            if key not in after.entries:
                after.entries[key] = Entry(one.domain, *key, space=space)
    for one in engagements:
        user = after.entries[Kind.USER, one.user_id]
        item = after.entries[Kind.ITEM, one.object_id]
        author = (
            author_of(said[one.object_id].payload, settings.author_field) if one.object_id in said else None
        )
        placed = _mean(said, one.object_id)
        now = item.vector if item.vector is not None and placed is not None else placed
        known = user.knows(one.engagement_id)
        told = next((each for each in user.before if known and each.engagement_id == one.engagement_id), None)
        if known:  # what was before it is told, or nobody knows: not what is after it
            before = told or Before(one.engagement_id, None, None, space)
        else:
            before = Before(one.engagement_id, user.vector, now, space)
        if placed is not None and now is not None and not item.knows(one.engagement_id):
            mover = told.user if told is not None and told.space == space else user.vector
            changed = _item_after(item, now, placed, mover, one, settings, rate)
            after.entries[item.key] = replace(changed, content=said[one.object_id].revision)
        if not known:
            past = Past(one.engagement_id, one.object_id, author, one.action, one.signal, one.at)
            changed = replace(
                user,
                pasts=(*user.pasts, past)[-max(settings.history, HEARD) :],
                before=(*(each for each in user.before if each.engagement_id not in stored), before),
                due=True,
            )
            if now is not None:
                vector = moved_user(user.vector, now, one.signal, user.count, settings.user_rate, rate)
                changed = replace(changed, vector=vector, count=user.count + 1)
            after.entries[user.key] = changed
        after.before[one.engagement_id], after.authors[one.engagement_id] = before, author
    return after


def _item_after(
    item: Entry,
    now: Vectors,
    placed: Vectors,
    user: Vectors | None,
    one: Engagement,
    settings: TowerSettings,
    rate: float,
) -> Entry:
    heard = (*item.heard, short(one.engagement_id))[-HEARD:]
    counted = replace(item, count=item.count + 1, heard=heard)
    if user is None:
        return counted
    base = placed if item.base is None else item.base
    vector = moved_item(now, base, user, one.signal, settings.realtime_rate * rate, settings.max_drift)
    return replace(counted, vector=vector, base=base)


def _is_old(entry: Entry, said: Mapping[str, Told]) -> bool:
    """Say whether an item's content is another one than was moved."""
    told = said.get(entry.id) if entry.kind is Kind.ITEM and entry.vector is not None else None
    return told is not None and told.revision != entry.content


def _mean(said: Mapping[str, Told], object_id: str) -> Vectors | None:
    told = said.get(object_id)
    return None if told is None else told.mean
