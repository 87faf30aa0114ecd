"""The main job on real input, through the HTTP API: ``make demo``, or ``python -m demo --help``."""

import json
import random
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from demo.api import Api, Found, ids
from demo.corpus import StdlibObject, stdlib_objects
from demo.encoding import encode
from demo.green import ship, ship_table
from demo.judging import JUDGED, Relevant, judge, view
from demo.metrics import angles
from demo.show import Show
from demo.towers import learn, towers_table
from demo.users import TOPICS, clicked, relevant_objects, visits
from improvement.domain import load_domain
from improvement.embedded import running_service
from improvement.errors import Unavailable
from improvement.objects import Vectors

DOMAIN = "plugins.stdlib_docs:domain"
#: A held-out query that means different things to these two, and to someone the service has never seen.
QUERY, TWO_USERS, NEWCOMER = "wait with a timeout", ("wanda-web", "sam-systems"), "nora-new"
#: Results shown in a session, and results printed.
SHOWN, PRINTED = 20, 6
#: How far a search is turned towards its user's profile where the demo asks for that.
PROFILE_WEIGHT = 0.25
#: Objects sent or read at a time.
OBJECTS = 200
#: Seconds the worker gets to empty its queue.
PATIENCE = 120


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """Run the embedded service with the demo's domain; yields its address."""
    try:
        with running_service(folder, domains=[DOMAIN]) as url:
            yield url
    except Unavailable as error:
        log = folder / "service.log"  # of a folder that may be gone in a moment
        said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        raise SystemExit(f"{error}\n{said}") from error


def vectors_of(show: Show, objects: Sequence[StdlibObject]) -> list[Vectors]:
    """Return each object's vectors, shape (parts, D)."""
    texts = [text for o in objects for text in o.parts]
    with show.phase("encode the docstrings", len(texts)) as bar:
        rows = encode(DOMAIN, texts, lambda n: bar.advance(bar.task_ids[0], n))
    return np.split(rows, np.cumsum([len(o.parts) for o in objects])[:-1])


def send(show: Show, api: Api, objects: Sequence[StdlibObject], vectors: Sequence[Vectors]) -> None:
    """Upsert the objects into the serving collection."""
    with show.phase("index the objects", len(objects)) as bar:
        for start in range(0, len(objects), OBJECTS):
            chunk = slice(start, start + OBJECTS)
            bodies = [
                {"object_id": o.object_id, "payload": o.payload, "storage_meta": {"python": o.object_id},
                 "parts": [{"vector": row, "part_id": f"{o.object_id}#{n}"} for n, row in enumerate(rows)]}
                for o, rows in ((o, v.astype(float).round(7).tolist())
                                for o, v in zip(objects[chunk], vectors[chunk], strict=True))
            ]  # fmt: skip
            api.call("PUT", "/objects", {"objects": bodies})
            bar.advance(bar.task_ids[0], len(bodies))


def play(
    show: Show, api: Api, day: int, days: int, sessions: int, seed: int, relevant: Relevant
) -> tuple[dict[str, set[str]], dict[str, list[str]]]:
    """Play one day's sessions of every user; return what each was shown, and what each clicked.

    Nothing is queued before everyone is done, so that what is shown does not depend on the worker's pace.
    """
    shown_to: dict[str, set[str]] = {user_id: set() for user_id in relevant}
    clicked_by: dict[str, list[str]] = {user_id: [] for user_id in relevant}
    played: list[str] = []
    with show.phase(f"day {day + 1}: search and click", sessions * len(relevant)) as bar:
        for user_id, topics in relevant.items():
            means = {query: topics[t.name] for t in TOPICS if t.name in topics for query in t.asked}
            # One order for all days, so that a day goes on where the one before ended.
            queries = visits(list(means), sessions * days, random.Random(f"{seed}/{user_id}"))
            rng = random.Random(f"{seed}/{user_id}/{day}")
            for n, query in enumerate(queries[day * sessions : (day + 1) * sessions]):
                session_id = f"{user_id}/{day + 1}/{n + 1}"
                shown = ids(api.search(query, user_id, SHOWN, session_id))
                chosen = clicked(shown, means[query], rng)
                api.click(session_id, chosen)
                shown_to[user_id].update(shown)
                played.append(session_id)
                clicked_by[user_id] += chosen
                bar.advance(bar.task_ids[0])
    for session_id in played:
        api.call("POST", "/clickstream/internal/session/use-for-improvement", {"session_id": session_id})
    wait(show, api, f"day {day + 1}: the worker improves")
    return shown_to, clicked_by


def wait(show: Show, api: Api, name: str) -> None:
    """Wait until the improvement queue is empty."""
    total = api.queue()["pending"]
    deadline = time.monotonic() + PATIENCE
    with show.phase(name, total) as bar:
        while pending := api.queue()["pending"]:
            bar.update(bar.task_ids[0], completed=max(0, total - pending))
            if time.monotonic() > deadline:
                raise SystemExit(f"{name}: {pending} sessions still pending after {PATIENCE} s")
            time.sleep(0.1)
        bar.update(bar.task_ids[0], completed=total)


def largest_drift(
    api: Api, shown_to: Mapping[str, Collection[str]], uploaded: Mapping[str, Vectors]
) -> tuple[int, float]:
    """Return how many copies there are, and the largest angle between a copy's part and its original's."""
    model_id = api.blue()
    names = [f"{object_id}_{user}" for user, shown in shown_to.items() for object_id in sorted(shown)]
    copies: Found = []
    for start in range(0, len(names), OBJECTS):
        body = {"embedding_model_id": model_id, "object_ids": names[start : start + OBJECTS]}
        copies += api.call("POST", "/internal/vectordb/collections/objects/find-by-ids", body)
    if not copies:
        return 0, 0.0
    # A copy's last part is its average, which a search by the nearest part does not use.
    now = np.array([part["vector"] for copy in copies for part in copy["parts"] if not part["is_average"]])
    before = np.concatenate([uploaded[copy["original_id"]] for copy in copies])
    return len(copies), float(angles(before, now).max())


def recommended(
    api: Api, relevant: Relevant, clicked_by: Mapping[str, Collection[str]]
) -> dict[str, dict[str, Any]]:
    """Return, for every user and the newcomer, what is recommended, why, and how much of it is theirs."""
    recommendations = {}
    for user_id in (*relevant, NEWCOMER):
        found, source = api.recommend(user_id, JUDGED)
        mine = frozenset().union(*relevant.get(user_id, {}).values())
        recommendations[user_id] = {
            "source": source,
            "object_ids": ids(found),
            "relevant": sum(object_id in mine for object_id in ids(found)),
            "clicked_before": sum(object_id in clicked_by.get(user_id, ()) for object_id in ids(found)),
        }
    return recommendations


def run(
    show: Show, api: Api, objects: Sequence[StdlibObject], vectors: Sequence[Vectors],
    days: int, sessions: int, seed: int, max_drift: float,
) -> dict[str, Any]:  # fmt: skip
    """Play the whole demo against a running service and return what was measured.

    Args:
        vectors: each object's, shape (parts, D).
        sessions: of each user, a day.
        max_drift: the largest angle the service allows a copy, radians.
    """
    relevant = relevant_objects(objects)
    send(show, api, objects, vectors)

    new_before = view(show, api, "a new user: before", NEWCOMER)
    lists = {"everyone, before": ids(api.search(QUERY, NEWCOMER, JUDGED))}
    before = judge(show, api, "judge: before", relevant)
    shown_to: dict[str, set[str]] = {user_id: set() for user_id in relevant}
    clicked_by: dict[str, list[str]] = {user_id: [] for user_id in relevant}
    for day in range(days):
        shown, clicked_today = play(show, api, day, days, sessions, seed, relevant)
        for user_id in relevant:
            shown_to[user_id] |= shown[user_id]
            clicked_by[user_id] += clicked_today[user_id]
    ended = api.queue()
    after = judge(show, api, "judge: after", relevant)
    profiled = judge(show, api, "judge: with profiles", relevant, PROFILE_WEIGHT)
    recommendations = recommended(api, relevant, clicked_by)
    for user_id in (*TWO_USERS, NEWCOMER):
        lists[f"{user_id}, after"] = ids(api.search(QUERY, user_id, JUDGED))
    new_after = view(show, api, "a new user: after", NEWCOMER)
    uploaded = {o.object_id: rows for o, rows in zip(objects, vectors, strict=True)}
    copies, angle = largest_drift(api, shown_to, uploaded)
    shipped = ship(show, api, objects, relevant, NEWCOMER, seed)
    member, mine = shipped.member
    learned = learn(show, api, member, mine, NEWCOMER)

    checks = {
        "held-out nDCG@10 went up": after["mean"] > before["mean"],
        "with profiles it went up": profiled["mean"] > before["mean"],
        "recommended is only what was not clicked yet": not any(
            one["clicked_before"] for one in recommendations.values()
        ),
        "a new user is recommended what is popular": recommendations[NEWCOMER]["source"] == "popularity",
        "a new user sees what they saw before": new_after == new_before,
        "no copy drifted beyond the limit": copies > 0 and angle <= max_drift + 1e-5,  # of 7 decimals sent
        "no session failed": ended["failed"] == 0,
        **shipped.checks(),
        **learned.checks(),
    }
    return {
        "objects": len(objects),
        "parts": sum(map(len, vectors)),
        "sessions": days * sessions * len(relevant),
        "clicks": sum(map(len, clicked_by.values())),
        "queue": ended,
        "copies": copies,
        "query": QUERY,
        "lists": lists,
        "ndcg_before": {user_id: round(score, 4) for user_id, score in before.items()},
        "ndcg_after": {user_id: round(score, 4) for user_id, score in after.items()},
        "ndcg_profile": {user_id: round(score, 4) for user_id, score in profiled.items()},
        "recommendations": recommendations,
        "drift": {
            "angle": round(angle, 4),
            "one_minus_cos": round(1 - float(np.cos(angle)), 4),
            "limit": max_drift,
        },
        "green": shipped.as_json(),
        "towers": learned.as_json(),
        "checks": checks,
        "ok": all(checks.values()),
    }


def report(console: Console, result: Mapping[str, Any], relevant: Relevant) -> None:
    """Print the tables."""
    topic = next(t.name for t in TOPICS if QUERY in t.held_out)
    asked = Table(title=f'"{QUERY}", a query nobody typed before (* relevant to that user)')
    columns: list[list[str]] = []
    lists = dict(result["lists"])
    before, newcomer = "everyone, before", f"{NEWCOMER}, after"
    if lists[before] == lists[newcomer]:  # as it must be: one column for both leaves room for names
        lists = {f"{before};\n{newcomer}": lists.pop(before), **lists}
        del lists[newcomer]
    for title, found in lists.items():
        asked.add_column(title, overflow="fold")
        mine = relevant.get(title.partition(",")[0], {}).get(topic, frozenset())
        columns.append([f"{object_id} *" if object_id in mine else object_id for object_id in found])
    for row in list(zip(*columns, strict=True))[:PRINTED]:
        asked.add_row(*row)
    console.print(asked)

    quality = Table(title=f"held-out nDCG@{JUDGED}")
    quality.add_column("user")
    for title in ("before", "copies", "change", "and profile", "change"):
        quality.add_column(title, justify="right")
    for user_id, before in result["ndcg_before"].items():
        after, profiled = result["ndcg_after"][user_id], result["ndcg_profile"][user_id]
        quality.add_row(
            user_id, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}",
            f"{profiled:.3f}", f"{profiled - before:+.3f}",
        )  # fmt: skip
    console.print(quality)

    feed = Table(title="recommended, without any query")
    for title in ("user", "because of", "relevant", "the first ones"):
        feed.add_column(title, overflow="fold")
    for user_id, one in result["recommendations"].items():
        known = f"{one['relevant']} of {len(one['object_ids'])}" if user_id in relevant else ""
        feed.add_row(user_id, one["source"], known, ", ".join(one["object_ids"][:3]))
    console.print(feed)

    console.print(ship_table(result["green"]))
    console.print(towers_table(result["towers"]))

    drift, queue = result["drift"], result["queue"]
    releases = result["green"]["releases"]
    console.print(
        f"{result['sessions']} sessions, {result['clicks']} clicks: {queue['done']} taught, "
        f"{queue['skipped']} skipped, {queue['failed']} failed; {result['copies']} personal copies\n"
        f"largest drift: 1 - cos = {drift['one_minus_cos']:.4f}, {drift['angle']:.4f} rad "
        f"(limit {drift['limit']})\n"
        f"blue: {releases['before']} -> promote -> {releases['promoted']} -> rollback -> "
        f"{releases['rolled back']}"
    )
    for check, holds in result["checks"].items():
        console.print(f"[green]yes[/] {check}" if holds else f"[bold red]NO[/]  {check}")


def main(
    sessions: Annotated[
        int, typer.Option(min=1, max=500, help="Sessions of each of the 4 users a day.")
    ] = 25,
    days: Annotated[
        int, typer.Option(min=1, max=20, help="Rounds of search, click, improve; each sees what was learned.")
    ] = 2,
    objects: Annotated[
        int | None,
        typer.Option(min=1_000, help="Index only so many objects, spread over the library: a quicker demo."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed plays other people; the same one the same.")] = 7,
    keep: Annotated[
        Path | None,
        typer.Option(help="Keep the data in this new folder, to look around in it with the service."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; bars and tables go to stderr.")
    ] = False,
) -> None:
    """Index the Python standard library's documentation, let people search it, and watch it learn.

    Four invented users with different work type the same ambiguous queries ("wait with a timeout") and click
    what suits their work. The service turns each click and skip into personal copies of the objects. Then
    everyone types queries they never typed before, and the results are compared: by nDCG@10, for two users
    side by side, and for a new user, for whom nothing may change.

    Then a whole team searches and clicks. What all of them chose goes into a green collection; it is gated by
    replaying sessions that it has not learned from, promoted, and searched by a new member of the team who
    never clicked anything; and rolled back. Two towers have learned from the same clicks meanwhile: they are
    tested on what everybody clicked next, promoted, and rolled back, too.

    Relevance is decided by words in names and summaries, never by the vectors being improved. The exit code
    is 0 only if the results got better and every other promise held.
    """
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise typer.BadParameter(f"{keep} exists and is not an empty folder", param_hint="--keep")
    console = Console(stderr=as_json)
    show = Show(console)
    started = time.perf_counter()
    max_drift = load_domain(DOMAIN).adjuster.max_drift
    found = stdlib_objects(objects)
    console.print(f"{len(found)} objects of the standard library, {sum(len(o.parts) for o in found)} parts")
    with tempfile.TemporaryDirectory(prefix="demo-") as scratch:
        folder = keep or Path(scratch)
        with service(folder) as url, httpx.Client(base_url=url, timeout=120) as http:
            vectors = vectors_of(show, found)
            result = run(show, Api(http), found, vectors, days, sessions, seed, max_drift)
    report(console, result, relevant_objects(found))
    seconds = round(time.perf_counter() - started, 1)
    console.print(f"{seconds} s in all")
    if keep:
        console.print(f"look around in it: DOMAINS={DOMAIN} DATA_DIR={keep} make serve")
    if as_json:
        print(json.dumps({**result, "seconds": {**show.seconds, "all": seconds}}, indent=2))
    raise typer.Exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(main)
    app()
