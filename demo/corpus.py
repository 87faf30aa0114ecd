"""The corpus of the demo: what the Python standard library says about itself.

Run as a script (``python -I -S demo/corpus.py``) it prints the corpus as JSON; `stdlib_objects` does that in
a child process, so that importing hundreds of modules leaves no trace in the caller, and other packages
that happen to be imported there leave none in the corpus.
"""

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

#: Left out with everything below them: tests, programs, windows, jokes, what acts on import (readline,
#: rlcompleter, site), the platform twins of os and os.path, tables of codecs, and what will be removed.
SKIPPED = frozenset({
    "__main__", "antigravity", "curses", "distutils", "encodings", "ensurepip", "genericpath", "idlelib",
    "imp", "lib2to3", "nt", "ntpath", "posix", "posixpath", "pydoc_data", "readline", "rlcompleter", "site",
    "sitecustomize", "test", "this", "tkinter", "turtle", "turtledemo", "usercustomize",
})  # fmt: skip
#: Most characters of a part: about 250 word pieces, the most that the encoder reads.
PART_CHARACTERS = 900
#: Most parts of one object; what a longer docstring says after that is left out.
MAX_PARTS = 8


@dataclass(frozen=True)
class StdlibObject:
    """A module, class, function or method with a docstring.

    Attributes:
        object_id: the qualified name people import it by, e.g. ``"json.dumps"``.
        kind: "module", "class", "function" or "method".
        module: the module it is found in, e.g. ``"json"``.
        doc: the cleaned docstring; of a method its `beginning`, so that encoding takes a minute.
    """

    object_id: str
    kind: str
    module: str
    doc: str

    @property
    def payload(self) -> dict[str, str]:
        """What search results show: module, kind, name and the docstring's first line."""
        summary = self.doc.split("\n", 1)[0]
        return {"module": self.module, "kind": self.kind, "name": self.object_id, "summary": summary}

    @property
    def parts(self) -> list[str]:
        """The texts to encode, each starting with the qualified name."""
        return [f"{self.object_id}: {piece}" for piece in split_text(self.doc)]


def split_text(text: str, characters: int = PART_CHARACTERS, most: int = MAX_PARTS) -> list[str]:
    """Cut text into at most ``most`` pieces of at most ``characters``, at the best boundary near the end.

    A paragraph's end is better than a line's, a line's better than a word's. Only white space is lost, and
    what follows the last piece.

    >>> split_text("One two.\\n\\nThree four.\\nFive.", characters=16)
    ['One two.', 'Three four.', 'Five.']
    """
    pieces: list[str] = []
    text = text.strip()
    while text and len(pieces) < most:
        if len(text) <= characters:
            return [*pieces, text]
        window = text[: characters + 1]
        # A boundary in the first half would make a crumb; the next kind of boundary is better then.
        ends = (window.rfind(boundary, characters // 2) for boundary in ("\n\n", "\n", " "))
        end = next((end for end in ends if end > 0), characters)
        pieces.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return pieces


def beginning(doc: str) -> str:
    """Return the first paragraph, and the next one while there are fewer than 8 words.

    >>> beginning("close()\\n\\nClose the file; what is buffered is written.\\n\\nClosing twice is allowed.")
    'close()\\n\\nClose the file; what is buffered is written.'
    """
    paragraphs = doc.split("\n\n")
    for end in range(1, len(paragraphs)):
        if len(" ".join(paragraphs[:end]).split()) >= 8:
            return "\n\n".join(paragraphs[:end])
    return doc


def stdlib_objects(limit: int | None = None) -> list[StdlibObject]:
    """Return the public objects of this Python's standard library, sorted by object_id.

    An object with several names appears once, under its most public one. ``limit`` keeps that many, spread
    evenly over the alphabet, for a smaller demo.

    Raises:
        subprocess.CalledProcessError: the walk failed; its stderr says why.
    """
    walk = subprocess.run(
        [sys.executable, "-I", "-S", __file__], capture_output=True, text=True, encoding="utf-8", check=True
    )
    found = [StdlibObject(**row) for row in json.loads(walk.stdout)]
    if limit is None or limit >= len(found):
        return found
    return [found[i * len(found) // limit] for i in range(limit)]


def modules() -> Iterator[ModuleType]:
    """Import the public modules in a fixed order; those that fail or warn on import are left out."""
    for name in sorted(set(sys.stdlib_module_names) - SKIPPED):
        yield from _with_submodules(name)
        if name == "os":
            yield os.path


def _with_submodules(name: str) -> Iterator[ModuleType]:
    last = name.rpartition(".")[2]
    if last.startswith("_") or last in {"test", "tests"}:
        return
    try:
        module = importlib.import_module(name)
    except Exception:  # not for this platform, or deprecated (warnings are errors here)
        return
    yield module
    for info in sorted(pkgutil.iter_modules(getattr(module, "__path__", ())), key=lambda info: info.name):
        yield from _with_submodules(f"{name}.{info.name}")


def walk() -> list[StdlibObject]:
    """Find the public objects of every module; meant for a process of its own."""
    names: dict[int, tuple[tuple[Any, ...], str, str, Any]] = {}
    for module in modules():
        path = "os.path" if module is os.path else module.__name__
        for rank, name, thing in [((0,), path, module), *_members(module, path)]:
            known = names.get(id(thing))
            if known is None or rank < known[0]:
                names[id(thing)] = (rank, name, path, thing)
    found: dict[str, StdlibObject] = {}
    # Modules first: a class of a package hides the module of the same name, as in unittest.main.
    for rank, name, path, thing in sorted(names.values(), key=lambda named: named[:2]):
        if _documented(thing):
            kind = "module" if rank == (0,) else "class" if inspect.isclass(thing) else "function"
            found[name] = StdlibObject(name, kind, path, inspect.cleandoc(thing.__doc__))
        if inspect.isclass(thing):
            for method, doc in _methods(thing):
                found[f"{name}.{method}"] = StdlibObject(f"{name}.{method}", "method", path, doc)
    return [found[name] for name in sorted(found)]


def _members(module: ModuleType, path: str) -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    """Yield (rank, qualified name, class or function); the smallest rank is the most public name."""
    listed = getattr(module, "__all__", None)
    for name in sorted(listed or vars(module)):
        thing = getattr(module, name, None)
        if name.startswith("_") or not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        home = getattr(thing, "__module__", None)
        # Without a list, what a module imported from elsewhere is not its own.
        if listed or home in {path, module.__name__, f"_{path}"} or path == "builtins":
            qualified = f"{path}.{name}"
            alias = getattr(thing, "__name__", name) != name
            rank = (
                1,
                path != "builtins",
                listed is None,
                alias,
                qualified.count("."),
                home != path,
                qualified,
            )
            yield rank, qualified, thing


def _methods(owner: type) -> Iterator[tuple[str, str]]:
    """Yield the public methods and properties a class documents itself, with how that begins."""
    for name, member in sorted(vars(owner).items()):
        function = getattr(member, "__func__", member)  # of a static or class method
        method = inspect.isroutine(function) or isinstance(function, property)
        if method and not name.startswith("_") and _documented(function):
            yield name, beginning(inspect.cleandoc(function.__doc__))


def _documented(thing: Any) -> bool:
    """Whether it has a docstring of its own that says more than a name."""
    doc = getattr(thing, "__doc__", None)
    return isinstance(doc, str) and doc != type(thing).__doc__ and len(doc.split()) > 1


def main() -> None:
    """Print the corpus as JSON, and nothing that an imported module may print."""
    answer = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    warnings.simplefilter("error")
    rows = [vars(found) for found in walk()]
    with open(answer, "w", encoding="utf-8", errors="replace") as out:
        json.dump(rows, out)


if __name__ == "__main__":
    main()
