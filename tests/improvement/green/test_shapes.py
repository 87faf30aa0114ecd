"""One content, a shape in every release."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.database import Database

from improvement.adjusters.population import turned
from improvement.domain import MetricType, SearchDomain
from improvement.evaluation import whole
from improvement.green import shapes
from improvement.green.population_store import PopulationStore, Turn
from improvement.green.shapes import Shaper
from improvement.objects import Object, Vectors, given_mean, given_rows
from improvement.releases import Release
from improvement.schemas import with_revision
from tests.support import DIMENSIONS, WordEncoder, make_domain, make_object

OWN, OTHER = "words-v1", "words-v2"


class Given:
    """Turns as a test gives them, by build and object."""

    def __init__(self, turns: dict[str, dict[str, Turn]]) -> None:
        self.turns = turns

    def of(self, build: str, object_ids: Iterable[str]) -> dict[str, Turn]:
        return {i: turn for i, turn in self.turns.get(build, {}).items() if i in set(object_ids)}


def shaper(**turns: dict[str, Turn]) -> Shaper:
    store: Any = Given(turns)
    return Shaper(store)


@pytest.fixture(autouse=True)
def a_turn_that_can_be_reckoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one is `adjusters.population`'s; here every row goes that share of the way to its target."""

    def moved(rows: Vectors, targets: Vectors, amounts: Any, metric: MetricType) -> Any:
        return (rows + amounts[:, None] * (targets - rows)).astype(np.float32)

    monkeypatch.setattr(shapes, "turned", moved)


@pytest.fixture
def domain() -> SearchDomain:
    """Two spaces: 16 numbers under cosine, and 8 under euclid."""
    other = make_domain(dimensions=8, metric=MetricType.EUCLID, encoder=WordEncoder(8, OTHER))
    return make_domain(variants=(other,))


def release(space: str = OWN, build: str | None = None, population: bool = True) -> Release:
    return Release(
        collection_id=f"{space}@{build}", domain="things", embedding_model_id=f"{space}@{build}", info={},
        created_at=0, index_created=False, blue=False, space=space, follows=True, build=build,
        population=population and build is not None,
    )  # fmt: skip


def described(domain: SearchDomain, object_id: str, *texts: str, average: str | None = None) -> Object:
    rows = domain.embed(texts)
    return with_revision(
        Object(
            object_id,
            rows,
            tuple(f"{object_id}:{n}" for n in range(len(rows))),
            average=None if average is None else domain.embed([average])[0],
            texts=texts if average is None else (*texts, average),
        )
    )


def only(shaper: Shaper, domain: SearchDomain, o: Object, space: str, to: Release) -> Object:
    made = shaper.shaped(domain, [o], space, to)
    assert made.failed == {}
    return made.objects[0]


def why_not(
    domain: SearchDomain, objects: Sequence[Object], to: Release, space: str = OWN
) -> tuple[list[str], dict[str, str]]:
    made = shaper().shaped(domain, objects, space, to)
    return [o.object_id for o in made.objects], made.failed


def target(number: int, size: int = DIMENSIONS) -> Vectors:
    rows: Vectors = np.eye(size, dtype=np.float32)[number]
    return rows


def test_where_nobody_turned_it_an_object_is_as_it_was_given(domain: SearchDomain):
    o = described(domain, "o", "red shoes", "blue hat", average="clothes")
    for to in (release(), release(build="b"), release(build="b", population=False)):
        made = only(shaper(b={"another": Turn(target(0), 0.5)}), domain, o, OWN, to)
        assert np.array_equal(made.parts, o.parts)
        assert made.average is not None
        assert np.array_equal(made.average, o.average)
        assert (made.raw, made.given, made.revision, made.texts) == (None, None, o.revision, o.texts)


def test_a_turn_moves_every_row_and_keeps_what_was_given_beside_it(domain: SearchDomain):
    o = described(domain, "o", "red shoes", "blue hat", average="clothes")
    made = only(shaper(b={"o": Turn(target(3), 0.25)}), domain, o, OWN, release(build="b"))
    rows = np.concatenate([made.parts, made.average[None]])  # type: ignore[index]
    assert np.allclose(rows, given_rows(o) * 0.75 + 0.25 * target(3), atol=1e-6)
    assert rows.dtype == np.float32
    assert made.raw is not None
    assert np.array_equal(made.raw, given_rows(o))
    assert made.given == made.given_revision == o.revision != made.revision


def test_a_release_without_population_is_not_turned_by_its_build(domain: SearchDomain):
    o = described(domain, "o", "red shoes")
    made = only(shaper(b={"o": Turn(target(3), 0.5)}), domain, o, OWN, release(build="b", population=False))
    assert np.array_equal(made.parts, o.parts)


def test_objects_of_many_parts_get_their_own_turns_back(domain: SearchDomain):
    objects = [described(domain, f"o{n}", *[f"word{n} {m}" for m in range(1 + n % 3)]) for n in range(7)]
    turns = {f"o{n}": Turn(target(n), n / 10) for n in (0, 2, 3, 6)}  # the turn of o0 is none
    made = shaper(b=turns).shaped(domain, objects, OWN, release(build="b"))
    assert [o.object_id for o in made.objects] == [o.object_id for o in objects]
    for o, shape in zip(objects, made.objects, strict=True):
        amount = turns[o.object_id].amount if o.object_id in turns else 0
        toward = turns[o.object_id].target if o.object_id in turns else target(0)
        assert np.allclose(shape.parts, o.parts * (1 - amount) + amount * toward, atol=1e-6), o.object_id
        assert (shape.raw is None) == (amount == 0)


@given(st.lists(st.sampled_from(["first", "second", "plain", "none"]), min_size=1, max_size=5))
def test_turns_never_add_up_from_build_to_build(path: list[str]):
    domain = make_domain()
    o = described(domain, "o", "red shoes", "hat", average="clothes")
    turns = {"first": {"o": Turn(target(1), 0.5)}, "second": {"o": Turn(target(2), 0.3)}}
    made = o
    for build in path:
        made = only(shaper(**turns), domain, made, OWN, release(build=None if build == "none" else build))
    direct = only(shaper(**turns), domain, o, OWN, release(build=None if path[-1] == "none" else path[-1]))
    assert np.array_equal(given_rows(made), given_rows(o))
    assert np.array_equal(made.parts, direct.parts)
    assert np.array_equal(made.average, direct.average)
    assert made.given_revision == o.revision


def test_a_turn_of_another_size_turns_nothing(domain: SearchDomain):
    o = described(domain, "o", "red shoes")
    made = only(shaper(b={"o": Turn(target(0, 8), 0.5)}), domain, o, OWN, release(build="b"))
    assert np.array_equal(made.parts, o.parts)


def test_in_another_space_an_object_is_embedded_from_its_texts_and_turned_there(domain: SearchDomain):
    o = described(domain, "o", "red shoes", "blue hat", average="clothes")
    made = only(shaper(b={"o": Turn(target(0, 8), 0.5)}), domain, o, OWN, release(OTHER, "b"))
    expected = domain.variants[0].embed(["red shoes", "blue hat", "clothes"])
    assert made.raw is not None
    assert np.array_equal(made.raw, expected)
    assert np.allclose(made.parts, expected[:2] / 2 + target(0, 8) / 2, atol=1e-6)
    assert made.given_revision == o.revision != made.revision
    back = only(shaper(), domain, made, OTHER, release())
    assert np.allclose(back.parts, o.parts, atol=1e-6)
    assert back.average is not None
    assert back.raw is None
    assert back.given_revision == o.revision


def test_shapes_of_the_same_are_the_same(domain: SearchDomain):
    o = described(domain, "o", "red shoes")
    other = described(domain, "o", "red boots")
    to = release(OTHER, "b")
    assert (
        only(shaper(), domain, o, OWN, to).revision
        == only(shaper(), domain, o, OWN, to).revision
        != only(shaper(), domain, other, OWN, to).revision
    )


def test_an_object_without_texts_fails_alone_and_says_how_many_it_needs(domain: SearchDomain):
    bare = make_object("bare", np.ones((2, DIMENSIONS)))
    half = replace(described(domain, "half", "a", "b"), texts=("a", None))
    fine = described(domain, "fine", "red shoes")
    made, failed = why_not(domain, [bare, fine, half], release(OTHER))
    assert made == ["fine"]
    assert failed.keys() == {"bare", "half"}
    assert "expected 2 texts" in failed["bare"]
    assert "got 1" in failed["half"]


def test_the_domain_may_know_texts_that_were_not_stored(domain: SearchDomain):
    known = replace(domain, texts=lambda o: [f"text of {o.object_id}"] * len(o.parts))
    bare = make_object("bare", np.ones((2, DIMENSIONS)))
    stored = described(domain, "stored", "red shoes")
    made = shaper().shaped(known, [bare, stored], OWN, release(OTHER))
    texts = ["text of bare", "text of bare", "red shoes"]
    assert np.array_equal(np.concatenate([o.parts for o in made.objects]), domain.variants[0].embed(texts))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([], "expected 1 texts"), (["a", "b"], "got 2"), ("shoes", "got 5"), ([None], "texts to embed"),
        ([7], "texts to embed"), ([" "], "texts to embed"), (None, "NoneType"), (KeyError("title"), "title"),
    ],
)  # fmt: skip
def test_a_domain_that_names_no_usable_texts_is_told_so(domain: SearchDomain, answer: Any, reason: str):
    def texts(o: Object) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    made, failed = why_not(replace(domain, texts=texts), [make_object("o", target(0))], release(OTHER))
    assert made == []
    assert reason in failed["o"]


def test_a_text_that_cannot_be_embedded_fails_alone_and_shifts_nobody(domain: SearchDomain):
    objects = [
        replace(described(domain, "first", "a", "b"), texts=("explode", "b")),
        described(domain, "second", "red shoes", "blue hat"),
        replace(described(domain, "third", "a", "b", "c"), texts=("a", "b", "explode")),
        described(domain, "fourth", "green coat"),
    ]
    made = shaper().shaped(domain, objects, OWN, release(OTHER))
    assert made.failed.keys() == {"first", "third"}
    assert all("exploded" in why for why in made.failed.values())
    rows = np.concatenate([o.parts for o in made.objects])
    assert np.array_equal(rows, domain.variants[0].embed(["red shoes", "blue hat", "green coat"]))


def test_a_text_without_direction_fails_alone_where_the_space_needs_one(domain: SearchDomain):
    cosine = make_domain(dimensions=8, encoder=WordEncoder(8, OTHER))
    objects = [
        replace(described(domain, "dots", "a"), texts=("...",)), described(domain, "fine", "red shoes"),
    ]  # fmt: skip
    made, failed = why_not(replace(domain, variants=(cosine,)), objects, release(OTHER))
    assert made == ["fine"]
    assert "no direction" in failed["dots"]
    assert why_not(domain, objects, release(OTHER)) == (["dots", "fine"], {}), "euclid needs none"


def test_a_domain_whose_own_preparation_breaks_fails_objects_and_not_the_write(domain: SearchDomain):
    def raises(rows: Vectors) -> Vectors:
        raise ZeroDivisionError("no length")

    def spoils(rows: Vectors) -> Vectors:
        spoiled: Vectors = rows * np.float32(np.nan)
        return spoiled

    objects = [described(domain, "o", "red shoes")]
    for prepare, reason in ((raises, "ZeroDivisionError"), (spoils, "NaN")):
        other = replace(domain.variants[0], prepare=prepare)
        made, failed = why_not(replace(domain, variants=(other,)), objects, release(OTHER))
        assert made == []
        assert reason in failed["o"]


def test_nothing_is_embedded_by_the_encoder_of_another_space(domain: SearchDomain):
    objects = [described(domain, "o", "red shoes")]
    made, failed = why_not(domain, objects, release("words-v3"))
    assert made == []
    assert "no encoder of the space 'words-v3'" in failed["o"]
    same = shaper().shaped(domain, objects, "words-v3", release("words-v3"))
    assert np.array_equal(same.objects[0].parts, objects[0].parts), "within one space none is needed"


def test_nothing_is_asked_for_no_objects(domain: SearchDomain):
    for to in (release(), release(OTHER, "b")):
        made = shaper().shaped(domain, [], OWN, to)
        assert (made.objects, made.failed) == ([], {})


def test_stored_turns_shape_objects(domain: SearchDomain, database: Database[Any]):
    store = PopulationStore(database)
    store.save("b", ["o"], target(2)[None], [0.5])
    o = described(domain, "o", "red shoes")
    made = only(Shaper(store), domain, o, OWN, release(build="b"))
    assert np.allclose(made.parts, o.parts / 2 + target(2) / 2, atol=1e-6)


def test_the_first_attempt_that_wrote_its_turns_counts_however_late_another_is(database: Database[Any]):
    store = PopulationStore(database)
    assert store.of("b", ["o"]) == {}
    assert store.save("b", ["o", "p"], target(2, 4)[None].repeat(2, 0), [0.5, 0.1], {"turned": 2}) == {
        "turned": 2
    }
    assert store.save("b", ["o", "q"], target(3, 4)[None].repeat(2, 0), [0.7, 0.2], {"turned": 9}) == {
        "turned": 2
    }
    found = store.of("b", ["o", "p", "q"])
    assert {i: (int(turn.target.argmax()), turn.amount) for i, turn in found.items()} == {
        "o": (2, 0.5), "p": (2, 0.1),
    }  # fmt: skip
    assert database["population"].count_documents({}) == 3
    store.drop("b")
    assert store.of("b", ["o"]) == {}
    assert database["population"].count_documents({}) == 0


def two_parts(*rows: Vectors) -> Object:
    made = make_object("o", rows[0])
    return with_revision(replace(made, parts=np.stack(rows).astype(np.float32), part_ids=("p", "q")))


def stored(o: Object) -> Object:
    """Return it as a collection gives it back that makes every vector 1 long."""
    rows = o.parts / np.linalg.norm(o.parts, axis=1, keepdims=True)
    return replace(o, parts=rows, centre=o.mean / np.linalg.norm(o.mean))


def test_the_mean_part_turns_by_no_more_than_the_parts(domain: SearchDomain, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shapes, "turned", turned)
    o = two_parts(target(0) + 0.3 * target(1), 0.3 * target(1) - target(0))
    made = only(shaper(b={"o": Turn(target(2), 0.15)}), domain, o, OWN, release(build="b"))
    assert np.arccos(made.mean @ o.mean / np.linalg.norm(made.mean) / np.linalg.norm(o.mean)) <= 0.15
    assert np.allclose(made.mean @ target(2) / np.linalg.norm(made.mean), np.sin(0.15), atol=1e-4)
    assert made.average is None
    assert np.array_equal(given_rows(made), o.parts)
    assert np.allclose(given_mean(made), o.mean)


def test_a_rebuild_keeps_the_mean_of_parts_whose_lengths_are_lost(domain: SearchDomain):
    o = two_parts(5 * target(0), target(1))
    held = stored(o)
    plain = only(shaper(), domain, held, OWN, release(build="b"))
    assert np.array_equal(plain.mean, held.mean)
    there = only(shaper(b={"o": Turn(target(2), 0.5)}), domain, held, OWN, release(build="b"))
    back = only(shaper(), domain, there, OWN, release(build="c"))
    assert np.array_equal(back.mean, held.mean)
    assert np.array_equal(back.parts, held.parts)
    assert (back.raw, back.average, back.given_revision) == (None, None, o.revision)


def test_a_comparison_measures_how_far_the_mean_part_moved_too():
    o = two_parts(target(0) + 0.3 * target(1), 0.3 * target(1) - target(0))
    moved = replace(o, centre=target(2), raw=np.concatenate([o.parts, o.mean[None]]))
    found = whole._drifts([o, o], {"o": moved}, MetricType.COSINE)
    assert np.allclose(found, np.pi / 2)
    assert whole._drifts([moved], {"o": o}, MetricType.COSINE).tolist() == [0.0]
