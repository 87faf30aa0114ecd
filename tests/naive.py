"""A naive Qdrant and Mongo in memory, and a stage on which actors take turns at every call to them."""

import copy
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from qdrant_client import models

Point = tuple[dict[str, Any], dict[str, Any]]


class NaiveQdrant:
    """The calls that `VectorStore` and `Releases` make but for searching; collections are dicts."""

    def __init__(self) -> None:
        self.points: dict[str, dict[str, Point]] = {}
        self.aliases: dict[str, str] = {}

    # Collections

    def create_collection(self, collection_name: str, **_: Any) -> None:
        self.points[collection_name] = {}

    def delete_collection(self, collection_name: str) -> None:
        self.points.pop(collection_name, None)

    def collection_exists(self, collection_name: str) -> bool:
        return collection_name in self.points

    def create_payload_index(self, collection_name: str, *_: Any, **__: Any) -> None:
        assert collection_name in self.points

    def get_aliases(self) -> models.CollectionsAliasesResponse:
        return models.CollectionsAliasesResponse(
            aliases=[
                models.AliasDescription(alias_name=alias, collection_name=name)
                for alias, name in self.aliases.items()
            ]
        )

    def update_collection_aliases(self, change_aliases_operations: Sequence[Any]) -> None:
        for operation in change_aliases_operations:
            if isinstance(operation, models.DeleteAliasOperation):
                del self.aliases[operation.delete_alias.alias_name]
            else:
                made = operation.create_alias
                self.aliases[made.alias_name] = made.collection_name

    # Points

    def upsert(self, collection_name: str, points: Sequence[Any], wait: bool = True) -> None:
        held = self.points[collection_name]
        for point in points:
            held[str(point.id)] = copy.deepcopy((point.vector, point.payload))

    def delete(self, collection_name: str, points_selector: Any, wait: bool = True) -> None:
        held = self.points[collection_name]
        if isinstance(points_selector, models.PointIdsList):
            gone = [str(i) for i in points_selector.points]
        else:
            gone = [i for i, (_, payload) in held.items() if _passes(points_selector.filter, i, payload)]
        for i in gone:
            held.pop(i, None)

    def retrieve(
        self, collection_name: str, ids: Sequence[Any], with_payload: Any = True, with_vectors: Any = False
    ) -> list[Any]:
        held = self.points[collection_name]
        return [_record(str(i), held[str(i)], with_payload) for i in ids if str(i) in held]

    def scroll(
        self,
        collection_name: str,
        scroll_filter: Any = None,
        limit: int = 10,
        offset: Any = None,
        with_payload: Any = True,
        with_vectors: Any = False,
    ) -> tuple[list[Any], Any]:
        held = self.points[collection_name]
        found = [i for i in sorted(held) if _passes(scroll_filter, i, held[i][1]) and i >= (offset or "")]
        records = [_record(i, held[i], with_payload) for i in found[:limit]]
        return records, found[limit] if len(found) > limit else None

    def count(self, collection_name: str, count_filter: Any = None, exact: bool = True) -> Any:
        held = self.points[collection_name]
        return models.CountResult(count=sum(_passes(count_filter, i, held[i][1]) for i in held))


def _record(identity: str, point: Point, with_payload: Any) -> Any:
    vectors, payload = copy.deepcopy(point)
    if isinstance(with_payload, list):
        payload = {key: value for key, value in payload.items() if key in with_payload}
    return models.Record.model_construct(id=identity, vector=vectors, payload=payload)


def _passes(condition: Any, identity: str, payload: Mapping[str, Any]) -> bool:
    if condition is None:
        return True
    if isinstance(condition, models.Filter):

        def of(name: str) -> list[Any]:
            given = getattr(condition, name) or []
            return given if isinstance(given, list) else [given]

        return (
            all(_passes(one, identity, payload) for one in of("must"))
            and not any(_passes(one, identity, payload) for one in of("must_not"))
            and (not of("should") or any(_passes(one, identity, payload) for one in of("should")))
        )
    if isinstance(condition, models.IsEmptyCondition):
        return payload.get(condition.is_empty.key) is None
    if isinstance(condition, models.HasIdCondition):
        return identity in map(str, condition.has_id)
    assert isinstance(condition, models.FieldCondition), condition
    value = payload.get(condition.key)
    if isinstance(condition.match, models.MatchAny):
        return value in condition.match.any
    assert isinstance(condition.match, models.MatchValue), condition
    return bool(value == condition.match.value)


class _Found(list[dict[str, Any]]):
    def sort(self, key: Any = None, direction: int = 1, **_: Any) -> Any:
        found = list(self)
        for name, way in reversed([(key, direction)] if isinstance(key, str) else key):
            found.sort(key=lambda document, name=name: document.get(name, 0), reverse=way < 0)
        return _Found(found)

    def limit(self, number: int) -> Any:
        return _Found(self[: number or None])


class NaiveCollection:
    """The calls that `Releases` and `PromotionLog` make of a Mongo collection when they switch."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []

    def find(self, wanted: Mapping[str, Any]) -> Any:
        return _Found(copy.deepcopy(found) for found in self.documents if _is(found, wanted))

    def find_one(self, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        return next(iter(self.find(wanted)), None)

    def insert_one(self, document: dict[str, Any]) -> None:
        self.documents.append(copy.deepcopy(document))

    def delete_one(self, wanted: Mapping[str, Any]) -> None:
        self.documents = [found for found in self.documents if not _is(found, wanted)]

    def update_one(self, wanted: Mapping[str, Any], change: Mapping[str, Any], upsert: bool = False) -> None:
        assert change.keys() <= {"$set", "$setOnInsert"}
        for found in self.documents:
            if _is(found, wanted):
                found.update(copy.deepcopy(dict(change.get("$set", {}))))
                return
        if upsert:
            self.insert_one(
                dict(wanted) | dict(change.get("$setOnInsert", {})) | dict(change.get("$set", {}))
            )


def _is(document: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(document.get(key) == value for key, value in wanted.items())


class Killed(BaseException):
    """What an actor that is killed gets instead of his next turn."""


class Stage:
    """Runs actors, each in a thread, of which one acts at a time: until his next call to a store.

    ``now`` counts the turns that were taken; a call in a turn that is ``failing`` raises ConnectionError.
    """

    def __init__(self, failing: Iterable[int] = ()) -> None:
        self.now, self.failing = 0, frozenset(failing)
        self._turns: dict[int, threading.Semaphore] = {}
        self._back = threading.Semaphore(0)
        self._alive: dict[int, threading.Thread] = {}
        self._killed: set[int] = set()
        self._me = threading.local()
        self.failures: list[BaseException] = []

    def watched(self, store: Any) -> Any:
        """Return a store that lets others act before each of its calls."""
        stage = self

        class Watched:
            def __getattr__(self, name: str) -> Any:
                method = getattr(store, name)

                def call(*args: Any, **kwargs: Any) -> Any:
                    stage.pause()
                    if stage.now in stage.failing and stage.acting:
                        raise ConnectionError("the store is away")
                    return method(*args, **kwargs)

                return call

        return Watched()

    @property
    def acting(self) -> bool:
        """Whether an actor asks."""
        return getattr(self._me, "number", None) is not None

    def pause(self) -> None:
        """Let others act; those who are no actors go on."""
        me = getattr(self._me, "number", None)
        if me is not None:
            self._back.release()
            self._turns[me].acquire()
            if me in self._killed:
                raise Killed

    def wait_for(self, number: int) -> None:
        """Let others act until an actor is done."""
        while number in self._alive:
            self.pause()

    def kill(self, number: int) -> None:
        """Have an actor get no further turn."""
        self._killed.add(number)

    def play(self, actors: Sequence[Callable[[], None]], turns: Iterator[tuple[int, int]]) -> None:
        """Run actors to their ends; raises what one of them raised.

        Args:
            turns: who acts next, and how often in a row; when they are used up everybody acts in turn, once,
                then twice each, and so on, for in step two can chase each other for ever. Who is done already
                is passed over.
        """
        for number, actor in enumerate(actors):
            self._turns[number] = threading.Semaphore(0)
            thread = threading.Thread(target=self._act, args=(number, actor), daemon=True)
            self._alive[number] = thread
            thread.start()
        for number, times in turns:
            self._take(number % len(actors), times)
        for times in itertools.count(1):
            for number in list(self._alive):
                self._take(number, times)
            if not self._alive:
                break
        if self.failures:
            raise self.failures[0]

    def _take(self, number: int, times: int) -> None:
        for _ in range(times):
            if number not in self._alive:
                return
            self.now += 1
            self._turns[number].release()
            assert self._back.acquire(timeout=30), "an actor is stuck"

    def _act(self, number: int, actor: Callable[[], None]) -> None:
        self._me.number = number
        self._turns[number].acquire()
        try:
            if number not in self._killed:
                actor()
        except Killed:
            pass
        except BaseException as failure:
            self.failures.append(failure)
        finally:
            del self._alive[number]
            self._back.release()
