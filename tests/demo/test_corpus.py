import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.corpus import MAX_PARTS, PART_CHARACTERS, StdlibObject, split_text, stdlib_objects


@pytest.fixture(scope="module")
def objects() -> list[StdlibObject]:
    return stdlib_objects()


def test_the_library_has_several_thousand_objects_in_a_fixed_order(objects):
    assert 3_000 <= len(objects) <= 6_000
    ids = [found.object_id for found in objects]
    assert ids == sorted(set(ids))
    assert objects == stdlib_objects()


def test_objects_carry_the_name_people_import_them_by(objects):
    by_id = {found.object_id: found for found in objects}
    assert by_id["json.dumps"].payload == {
        "module": "json",
        "kind": "function",
        "name": "json.dumps",
        "summary": "Serialize ``obj`` to a JSON formatted ``str``.",
    }
    assert by_id["csv"].kind == "module"
    assert by_id["pathlib.Path"].kind == "class"
    assert (by_id["pathlib.Path.mkdir"].kind, by_id["pathlib.Path.mkdir"].module) == ("method", "pathlib")
    assert "os.path.join" in by_id
    assert "itertools.chain" in by_id
    assert "sqlite3.connect" in by_id


def test_an_object_with_several_names_appears_once_under_the_most_public_one(objects):
    ids = {found.object_id for found in objects}
    assert {"asyncio.sleep", "builtins.open", "builtins.OSError", "concurrent.futures.wait"} <= ids
    assert not {"asyncio.tasks.sleep", "io.open", "os.error", "posixpath.join"} & ids


def test_private_and_dangerous_modules_stay_out(objects):
    names = {name for found in objects for name in found.module.split(".")}
    assert not {name for name in names if name.startswith("_")}
    assert not {"test", "tests", "this", "antigravity", "tkinter", "turtle", "idlelib", "lib2to3"} & names


def test_every_object_has_words_and_every_part_starts_with_its_name(objects):
    for found in objects:
        assert len(found.doc.split()) > 1
        assert 1 <= len(found.parts) <= MAX_PARTS
        assert all(part.startswith(f"{found.object_id}: ") for part in found.parts)
        assert all(len(part) <= PART_CHARACTERS + len(found.object_id) + 2 for part in found.parts)
    assert sum(len(found.parts) > 1 for found in objects) > 100


def test_a_limit_keeps_a_spread_of_the_whole(objects):
    some = stdlib_objects(limit=500)
    assert len(some) == 500
    assert [found for found in objects if found in set(some)] == some
    assert {some[0].object_id[0], some[-1].object_id[0]} == {"a", "z"}


def test_the_walk_leaves_no_trace_in_the_caller():
    script = (
        "import sys; from demo.corpus import stdlib_objects; before = set(sys.modules);"
        "stdlib_objects(); new = set(sys.modules) - before; assert len(new) < 20, sorted(new)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@settings(deadline=None, max_examples=50)
@given(
    text=st.text(alphabet="ab .\n", max_size=300),
    characters=st.integers(min_value=2, max_value=60),
    most=st.integers(min_value=1, max_value=8),
)
def test_splitting_loses_white_space_only_and_keeps_its_limits(text, characters, most):
    pieces = split_text(text, characters, most)
    assert len(pieces) <= most
    assert all(piece and len(piece) <= characters for piece in pieces)
    kept, said = ("".join(piece.split()) for piece in ("".join(pieces), text))
    assert said.startswith(kept)
    assert kept == said or len(pieces) == most


def test_text_is_cut_between_paragraphs_rather_than_lines_rather_than_words():
    assert split_text("a b\nc d\n\ne f\ng h", characters=11) == ["a b\nc d", "e f\ng h"]
    assert split_text("a b c d\ne f g h", characters=11) == ["a b c d", "e f g h"]
    assert split_text("aaaa bbbb cccc", characters=10) == ["aaaa bbbb", "cccc"]
    assert split_text("a" * 25, characters=10) == ["a" * 10, "a" * 10, "a" * 5]
