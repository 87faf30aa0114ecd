"""What some users' earlier sessions make of one collection: their copies and profiles, as a worker would."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from improvement.copies import Key, UsableSession, improvement_input, personal_copies
from improvement.domain import SearchDomain
from improvement.evaluation.profiles import profile_of
from improvement.evaluation.sessions import Tally, shown_in
from improvement.evidence import happened_at
from improvement.inputs import ImprovementInput
from improvement.objects import Object, Vectors
from improvement.profiles.profile import Profile
from improvement.profiles.searched import searched
from improvement.profiles.settings import ProfileSettings
from improvement.quality.limits import expires_at, most_useful, usefulness
from improvement.quality.settings import CopyLimits
from improvement.vectors import VectorStore

#: Copies made at once.
COPIES = 4_096


@dataclass(frozen=True, eq=False)
class Learned:
    """What there is to rank for some users in one collection.

    Attributes:
        originals: by object id: those that the tested sessions showed, where they still are.
        copies: by user and object id, of what the tested sessions showed; nobody looks at others.
        profiles: by user id, of those who have enough of one.
    """

    originals: Mapping[str, Object]
    copies: Mapping[Key, Object]
    profiles: Mapping[str, Profile]


def learn(
    vectors: VectorStore,
    collection: str,
    domain: SearchDomain,
    taught: Sequence[UsableSession],
    test: Sequence[UsableSession],
    queries: Mapping[str, Vectors | str],
    tally: Tally,
    *,
    copies: bool,
    profiles: ProfileSettings | None,
    forgiving: bool = False,
) -> Learned:
    """Make some users' copies and profiles of a collection's originals; nothing is written.

    Users have the copies that they had when they first searched of what is tested: of sessions that had not
    expired by then, and no more than the domain's `CopyLimits` let one user have.

    Args:
        domain: in the collection's embedding space.
        taught: their earlier sessions, oldest first.
        test: sessions to be tested on.
        queries: of both, by session id.
        copies: whether to make copies.
        profiles: how profiles are made; None makes none.
        forgiving: whether users whose copies cannot be made go without, as they do in production.

    Raises:
        ValueError: the adjuster refused a batch, and nothing is forgiven.
    """
    shown = shown_in(test)
    fresh = _unexpired(taught, test, domain.copies) if copies else []
    many = _with_many(fresh, domain.copies.per_user)
    telling = [
        one
        for one in fresh
        if one.session.user_id in many or any((str(one.session.user_id), o) in shown for o in one.weights)
    ]
    wanted = {object_id for _, object_id in shown} | {o for one in telling for o in one.weights}
    originals = vectors.find(collection, wanted)
    inputs = _inputs(domain, taught, telling, queries, originals, tally)
    made = _copies(domain, inputs, originals, shown, tally if forgiving else None)
    return Learned(originals, made, _profiles(domain, profiles, taught, vectors, collection))


def _unexpired(
    taught: Iterable[UsableSession], test: Iterable[UsableSession], limits: CopyLimits
) -> list[UsableSession]:
    """Return the sessions that still taught copies when their user came for the first one of those tested."""
    came: dict[str | None, float] = {}
    for one in test:
        at = one.session.registered_at
        if at is not None:
            came[one.session.user_id] = min(at, came.get(one.session.user_id, at))
    return [one for one in taught if expires_at(one.session, limits) >= came.get(one.session.user_id, 0.0)]


def _with_many(taught: Iterable[UsableSession], per_user: int) -> set[str | None]:
    """Return who may have evidence of more objects than copies."""
    named: dict[str | None, set[str]] = defaultdict(set)
    for one in taught:
        named[one.session.user_id].update(one.weights)
    return {user for user, objects in named.items() if len(objects) > per_user}


def _inputs(
    domain: SearchDomain,
    taught: Iterable[UsableSession],
    telling: Iterable[UsableSession],
    queries: Mapping[str, Vectors | str],
    originals: Mapping[str, Object],
    tally: Tally,
) -> list[ImprovementInput]:
    """Return what the telling ones of the taught sessions say, weighed by age as production does."""
    latest: dict[str | None, float] = {}
    for one in taught:  # oldest first
        latest[one.session.user_id] = happened_at(one.session)
    inputs = []
    for one in telling:
        query = queries[one.session.session_id]
        if isinstance(query, str):
            tally.not_taught[query] += 1
            continue
        decay = domain.evidence.decay(latest[one.session.user_id] - happened_at(one.session))
        try:
            inputs.append(
                improvement_input(one, query, originals, domain.search_index_info.dimensions, decay)
            )
        except ValueError as error:
            tally.not_taught[str(error)] += 1
    return inputs


def _copies(
    domain: SearchDomain,
    inputs: Sequence[ImprovementInput],
    originals: Mapping[str, Object],
    shown: AbstractSet[Key],
    forgiven: Tally | None,
) -> dict[Key, Object]:
    # Whose inputs are not all there has so little evidence that nothing of it is left out.
    keys = sorted(shown & set(most_useful(usefulness(inputs), domain.copies.per_user)))
    copies: dict[Key, Object] = {}
    for start in range(0, len(keys), COPIES):
        some = keys[start : start + COPIES]
        try:
            copies |= _adjusted(domain, inputs, originals, some)
        except Exception:
            if forgiven is None:
                raise
            for user in dict.fromkeys(user for user, _ in some):  # find out whose: others must not suffer
                try:
                    copies |= _adjusted(domain, inputs, originals, [key for key in some if key[0] == user])
                except Exception:  # plugin code may raise anything
                    forgiven.not_taught["the adjuster failed on its user"] += 1
    return copies


def _adjusted(
    domain: SearchDomain,
    inputs: Sequence[ImprovementInput],
    originals: Mapping[str, Object],
    keys: Sequence[Key],
) -> dict[Key, Object]:
    users = {user for user, _ in keys}
    about = [one for one in inputs if one.query.user_id in users]
    made = personal_copies(about, originals, dict.fromkeys(keys, ""), domain)
    return {(str(copy.user_id), str(copy.original_id)): copy for copy in made}


def _profiles(
    domain: SearchDomain,
    settings: ProfileSettings | None,
    taught: Iterable[UsableSession],
    vectors: VectorStore,
    collection: str,
) -> dict[str, Profile]:
    """Make the profiles of those users who have enough of one; their objects are fetched at once."""
    if settings is None:
        return {}
    sessions: dict[str, list[UsableSession]] = {}
    for one in taught:  # oldest first
        sessions.setdefault(str(one.session.user_id), []).append(one)
    said = {user: searched(of, domain.evidence)[-settings.remember :] for user, of in sessions.items()}
    wanted = {one.object_id for of_user in said.values() for one in of_user}
    means: dict[str, Vectors | None] = {**dict.fromkeys(wanted), **vectors.means(collection, wanted)}
    made = {user: profile_of(user, of_user, means, settings) for user, of_user in said.items()}
    return {user: profile for user, profile in made.items() if profile is not None}
