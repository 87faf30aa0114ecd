import struct
import threading
from xml.etree import ElementTree

import pytest

from improvement.two_tower.checkpoints import Checkpoint
from improvement.two_tower.curve import learning_curve


def row(count: int = 6) -> list[Checkpoint]:
    first = Checkpoint("begun", "things", None, "words", 0.0, "begun")
    steps = [
        Checkpoint(
            f"id{n}", "things", f"id{n - 1}", "words", float(n), "users" if n % 3 == 0 else "candidate",
            losses=(3.0 / n, 2.5 / n), created_at=float(n), good=False if n == 4 else None,
        )
        for n in range(1, count + 1)
    ]  # fmt: skip
    return [first, *steps]


def texts(svg: bytes) -> list[str]:
    return [
        element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")
    ]


def test_a_png_is_a_picture_of_some_size():
    made = learning_curve(row())
    assert made[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", made[16:24])
    assert min(width, height) > 500


def test_each_tower_has_a_panel_and_every_checkpoint_a_line():
    said = learning_curve(row(), form="svg").decode()
    assert {"candidate tower: contrastive loss", "user tower: triplet loss"} <= set(texts(said.encode()))
    assert said.count("#b8bec6") == 3 + 2  # of 4 and 2, one was judged bad
    assert "not a number" not in said


def test_what_served_was_bad_or_stopped_is_marked():
    plain = learning_curve(row(), form="svg").decode()
    said = learning_curve(row(), promoted=["id2"], stopped={"id5"}, form="svg").decode()
    assert said.count("#1f8a4c") == plain.count("#1f8a4c") + 1
    assert said.count("#c0392b") > plain.count("#c0392b") == 1
    assert "stopped: not a number" in texts(said.encode())


def test_equal_checkpoints_give_equal_bytes_in_any_order():
    for form in ("png", "svg"):
        assert learning_curve(row(), form=form) == learning_curve(row()[::-1], form=form)


@pytest.mark.parametrize("checkpoints", [[], row(0), row(1)], ids=["none", "untrained", "one tower"])
def test_where_nothing_was_learned_that_is_said(checkpoints: list[Checkpoint]):
    assert "no step yet" in texts(learning_curve(checkpoints, form="svg"))


def test_many_threads_may_draw_at_once():
    alone, made = learning_curve(row(), form="svg"), []
    threads = [
        threading.Thread(target=lambda: made.append(learning_curve(row(), form="svg"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [alone] * 4
