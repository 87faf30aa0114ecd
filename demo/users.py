"""The people of the demo: what they work with, what they look for, and what they click.

Everyone types the same ambiguous queries; what they mean depends on the modules they work with. What is
relevant is decided by words, never by vectors: an object of a person's modules whose name or summary has a
word of the topic. So the ground truth is independent of the embedding model that is being improved.
"""

import random
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from demo.corpus import StdlibObject


@dataclass(frozen=True)
class Topic:
    """Something people look for.

    Attributes:
        name: for tables.
        stems: beginnings of the words that make an object on topic.
        asked: phrasings that people type while the service learns.
        held_out: other phrasings, typed only when the results are judged.
    """

    name: str
    stems: tuple[str, ...]
    asked: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Person:
    """A user and the modules they work with, submodules included."""

    user_id: str
    works_with: frozenset[str]

    def knows(self, module: str) -> bool:
        """Whether a module, or a package it is in, is one they work with."""
        names = module.split(".")
        return any(".".join(names[:n]) in self.works_with for n in range(1, len(names) + 1))


def _person(user_id: str, modules: str) -> Person:
    return Person(user_id, frozenset(modules.split()))


PEOPLE = (
    _person(
        "wanda-web",
        "asyncio email ftplib html http imaplib json mimetypes poplib smtplib socketserver ssl urllib uuid "
        "webbrowser wsgiref xmlrpc",
    ),
    _person(
        "dan-data",
        "array bisect calendar collections csv datetime dbm decimal fractions functools heapq itertools math "
        "pickle random shelve sqlite3 statistics struct zoneinfo",
    ),
    _person(
        "sam-systems",
        "concurrent fcntl glob io logging mmap multiprocessing os pathlib platform resource sched select "
        "selectors shutil signal socket subprocess sys tarfile tempfile threading time zipfile",
    ),
    _person(
        "tess-text",
        "argparse ast cmd codecs configparser difflib doctest fileinput getopt gettext linecache locale "
        "optparse pprint re reprlib shlex string stringprep textwrap token tokenize unicodedata unittest xml",
    ),
)

#: A team that builds servers: what its members work with, all of them together.
TEAM = Person("the team", PEOPLE[0].works_with | PEOPLE[2].works_with)
#: Share of the team's modules that one member knows.
KNOWN = 0.6


def colleagues(count: int, rng: random.Random) -> tuple[Person, ...]:
    """Return members of the team, each of whom knows some of its modules."""
    modules = sorted(TEAM.works_with)
    each = round(KNOWN * len(modules))
    return tuple(Person(f"member-{n + 1:02}", frozenset(rng.sample(modules, each))) for n in range(count))


TOPICS = (
    Topic("parse", ("pars", "deserial", "loads", "decod"),
          ("parse a string", "parse text into values"),
          ("parser for a text format", "decode text into objects")),
    Topic("connect", ("connect", "socket", "login"),
          ("open a connection", "connect to something"),
          ("establish a new connection", "object that represents a connection")),
    Topic("read", ("read", "load", "recv", "fetch"),
          ("read data from a file", "read the next line"),
          ("read everything there is", "load data that was stored")),
    Topic("write", ("writ", "dump", "send", "save", "store"),
          ("write data out", "write to a file"),
          ("save data to a file", "output some text to a stream")),
    Topic("wait", ("wait", "join", "timeout", "sleep", "block", "poll"),
          ("wait for something to finish", "block until it is ready"),
          ("wait with a timeout", "pause until an event happens")),
    Topic("run", ("run", "execut", "start", "launch", "spawn"),
          ("run it", "execute a command"),
          ("start a task", "launch something in the background")),
    Topic("handle", ("handl", "callback", "hook", "event", "signal", "notif"),
          ("handle an event", "register a callback"),
          ("function called when something happens", "handler for requests")),
    Topic("close", ("clos", "shutdown", "releas", "terminat", "stop", "quit", "exit"),
          ("close it", "shut down cleanly"),
          ("release the resource when done", "stop and clean up")),
    Topic("error", ("error", "exception", "fail", "rais", "invalid"),
          ("error raised when it fails", "exception for invalid input"),
          ("raised for a bad argument", "what went wrong")),
    Topic("option", ("option", "config", "setting", "default", "flag", "paramet"),
          ("set an option", "default configuration"),
          ("change a setting", "read a parameter")),
    Topic("split", ("split", "separat", "chunk", "partition", "group", "tokeniz", "wrap"),
          ("split into pieces", "break a string at a separator"),
          ("divide into groups", "separate the parts")),
    Topic("format", ("format", "print", "repr", "represent", "display"),
          ("format a value", "string representation"),
          ("print it nicely", "show as text")),
    Topic("encode", ("encod", "quot", "escap", "compress"),
          ("encode text", "escape special characters"),
          ("quote a string safely", "make text safe to transport")),
    Topic("compare", ("compar", "equal", "differ", "match", "same", "identical"),
          ("compare two things", "are these equal"),
          ("find the difference between two values", "check whether it matches")),
    Topic("find", ("find", "search", "locat", "lookup", "index"),
          ("find an item", "search for something"),
          ("locate the first occurrence", "look up a value by its key")),
    Topic("list", ("list", "iter", "enumerat", "walk", "scan"),
          ("list everything in it", "iterate over the items"),
          ("go through one by one", "enumerate the entries")),
    Topic("count", ("count", "number", "size", "length", "total"),
          ("count the items", "size of it"),
          ("how many are there", "number of elements")),
    Topic("add", ("add", "append", "insert", "push", "extend", "put"),
          ("add an item", "add a new entry"),
          ("insert one more", "append to the end")),
    Topic("remove", ("remov", "delet", "discard", "pop", "clear", "unlink"),
          ("remove an item", "delete an entry"),
          ("get rid of it", "clear everything")),
    Topic("copy", ("copy", "copi", "clon", "duplicat", "replac"),
          ("make a copy", "copy one to another"),
          ("duplicate it", "replace the old with the new")),
    Topic("time", ("time", "date", "clock", "second", "day", "deadline"),
          ("get the time", "how many seconds"),
          ("current date and time", "when did it happen")),
)  # fmt: skip

#: A topic is part of someone's work when at least so many objects are relevant: a full first page.
MIN_RELEVANT = 10


def words(text: str) -> set[str]:
    """Return the lower-case words of prose or of a name.

    >>> sorted(words("http.client.HTTPConnection_pool2 reads"))
    ['client', 'connection', 'http', 'pool', 'reads']
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    return {word.lower() for word in re.findall(r"[A-Za-z]+", spaced)}


def on_topic(found: StdlibObject, topic: Topic) -> bool:
    """Whether a word of the object's own name or summary begins with one of the topic's stems."""
    own_name = found.object_id.removeprefix(found.module)
    return any(word.startswith(topic.stems) for word in words(f"{own_name} {found.payload['summary']}"))


def relevant_objects(
    objects: Iterable[StdlibObject], people: Sequence[Person] = PEOPLE, topics: Sequence[Topic] = TOPICS
) -> Mapping[str, Mapping[str, frozenset[str]]]:
    """Return, by user_id and topic name, the relevant object ids; only topics that are part of the work."""
    found = list(objects)
    about = {topic.name: [o for o in found if on_topic(o, topic)] for topic in topics}
    relevant = {
        person.user_id: {
            name: frozenset(o.object_id for o in matching if person.knows(o.module))
            for name, matching in about.items()
        }
        for person in people
    }
    return {
        user_id: {name: ids for name, ids in by_topic.items() if len(ids) >= MIN_RELEVANT}
        for user_id, by_topic in relevant.items()
    }


#: Chance that a relevant result is clicked once it is looked at, and that any other one is, by mistake.
CLICK_RELEVANT, CLICK_OTHER = 0.9, 0.02
#: How much the chance to be looked at falls from one place to the next.
PATIENCE = 0.97
#: Clicks after which a person has what they came for.
ENOUGH = 5


def visits(asked: Sequence[str], sessions: int, rng: random.Random) -> list[str]:
    """Return the queries of a person's sessions: all of them in a new order before any comes again."""
    queries: list[str] = []
    while len(queries) < sessions:
        queries += rng.sample(asked, len(asked))
    return queries[:sessions]


def clicked(shown: Sequence[str], relevant: Collection[str], rng: random.Random) -> list[str]:
    """Return what a person clicks in a list, best first: fading patience, and a few mistakes."""
    clicks: list[str] = []
    for object_id in shown:
        chance = CLICK_RELEVANT if object_id in relevant else CLICK_OTHER
        if rng.random() < chance:
            clicks.append(object_id)
        if len(clicks) == ENOUGH or rng.random() > PATIENCE:
            break
    return clicks
