"""Adjusters against the time of copying the same vectors: speed, growth with evidence and objects, memory.

`tensor.clone()` of the originals is the yardstick, because any adjuster must at least write as much. Clone
and adjusters take turns in one process on one thread, as a worker runs them. The first call, in which loops
are compiled, is not counted.
"""

import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from report import Goal, JsonOut, Seed, Strict, finish, machine, progress, quantiles, table

from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.adjusters.torch_based import TorchBasedAdjuster
from improvement.domain import SearchIndexInfo, VectorsAdjuster
from improvement.inputs import EvidenceBatch

#: Objects a session shows, and how many of them are clicked.
SHOWN, CLICKED = 20, 2


@dataclass(frozen=True)
class Case:
    """Sessions that show SHOWN objects each, of P parts and D dimensions, with E queries of evidence each."""

    sessions: int
    parts: int
    dimensions: int
    queries: int = 1

    @property
    def name(self) -> str:
        """Sessions x shown x dimensions, parts, queries an object."""
        return f"{self.sessions} x {SHOWN} x {self.dimensions}, {self.parts} part(s), {self.queries} quer" + (
            "y" if self.queries == 1 else "ies"
        )


CASES = (Case(512, 1, 384), Case(256, 4, 768))


def batch_of(case: Case, seed: int, device: str = "cpu") -> EvidenceBatch:
    """Return unit vectors in which each session teaches its objects, and the next sessions teach them too."""
    draw = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> torch.Tensor:
        rows = torch.randn(*shape, generator=draw)
        return (rows / rows.norm(dim=-1, keepdim=True)).to(device)

    count = case.sessions * SHOWN
    own = torch.arange(count) // SHOWN
    evidence = (own[:, None] + torch.arange(case.queries)) % case.sessions
    clicked = torch.rand(count, case.queries, generator=draw) < CLICKED / SHOWN
    weights = torch.where(clicked, 0.38 / CLICKED, -0.38 / (SHOWN - CLICKED))
    return EvidenceBatch(
        keys=tuple(("u", str(n)) for n in range(count)),
        parts=unit(count, case.parts, case.dimensions),
        part_mask=torch.ones(count, case.parts, dtype=torch.bool, device=device),
        queries=unit(case.sessions, 1, case.dimensions),
        query_mask=torch.ones(case.sessions, 1, dtype=torch.bool, device=device),
        evidence=evidence.to(device),
        weights=weights.to(device),
    )


def seconds(call: Callable[[], Any], device: str) -> float:
    """Time one call, waiting for the device."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = call()
    if device != "cpu":
        torch.cuda.synchronize(device)
    taken = time.perf_counter() - started
    del result  # not before the clock was read: giving memory back is the caller's time
    return taken


def in_turn(
    calls: dict[str, tuple[Callable[[], Any], int]], device: str, rounds: int, tick: Callable[[], Any]
) -> dict[str, float]:
    """Return the median seconds of each call; they take turns, some only in every so many-th round."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call, _ in calls.values():
        seconds(call, device)
    for number in range(rounds):
        for name, (call, every) in calls.items():
            if number % every == 0:
                taken[name].append(seconds(call, device))
        tick()
    return {name: quantiles(each, 0.5)[0] for name, each in taken.items()}


def peak(case: Case, seed: int) -> float:
    """Return the most memory held while adjusting, the originals included, in bytes of the originals.

    Measured in a process of its own as the kernel counts it (Linux: VmHWM, reset before the call).
    """
    code = (
        f"import sys; sys.path[0] = {str(Path(__file__).parent)!r}; import adjusters; adjusters.measure_peak("
    )
    arguments = f"{case.sessions}, {case.parts}, {case.dimensions}, {case.queries}, {seed})"
    run = subprocess.run([sys.executable, "-c", code + arguments], capture_output=True, text=True, check=True)
    return float(json.loads(run.stdout))


def measure_peak(sessions: int, parts: int, dimensions: int, queries: int, seed: int) -> None:
    """Print what `peak` wants to know."""
    torch.set_num_threads(1)
    it = GeodesicAdjuster(SearchIndexInfo(dimensions))
    it.adjust(batch_of(Case(8, parts, dimensions, queries), seed))  # compiles
    batch = batch_of(Case(sessions, parts, dimensions, queries), seed)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what others gave back must not look like memory to spare
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmHWM")
    it.adjust(batch)
    own = batch.parts.numel() * batch.parts.element_size()
    print(json.dumps((_status("VmHWM") - before + own) / own))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main(
    device: Annotated[str, typer.Option(help="cpu, or cuda where there is one.")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of which the median is taken.")] = 60,
    seed: Seed = 1,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Measure GeodesicAdjuster and TorchBasedAdjuster beside tensor.clone()."""
    if device != "cpu" and not torch.cuda.is_available():
        typer.echo(f"--device {device}: skipped, there is no GPU here", err=True)
        return
    torch.set_num_threads(1)
    facts = machine()

    def adjusting(adjuster: type[VectorsAdjuster], case: Case, batch: EvidenceBatch) -> Callable[[], Any]:
        it = adjuster(SearchIndexInfo(case.dimensions), device=device)  # type: ignore[call-arg]
        return lambda: it.adjust(batch)

    with progress() as bar:
        speed, goals = [], []
        task = bar.add_task("throughput", total=rounds * len(CASES))
        for case in CASES:
            batch = batch_of(case, seed, device)
            taken = in_turn(
                {
                    "clone": (batch.parts.clone, 1),
                    "geodesic": (adjusting(GeodesicAdjuster, case, batch), 1),
                    "torch": (adjusting(TorchBasedAdjuster, case, batch), 10),
                },
                device, rounds, lambda: bar.advance(task),
            )  # fmt: skip
            faster, copies = taken["torch"] / taken["geodesic"], taken["geodesic"] / taken["clone"]
            speed.append({"case": case.name, "seconds": taken, "times faster": faster, "clones": copies})
            goals += [
                Goal(f"{case.name}: >= 50 x TorchBasedAdjuster", f"{faster:.0f} x", faster >= 50),
                Goal(f"{case.name}: <= 2.5 x clone", f"{copies:.2f} x", copies <= 2.5),
            ]

        growth = []
        cases = [Case(512, 1, 384, e) for e in (1, 2, 4, 8, 16, 32)]
        cases += [Case(sessions, 1, 384) for sessions in (64, 256, 1024, 2048)]
        task = bar.add_task("evidence and objects", total=rounds * len(cases))
        for case in cases:
            batch = batch_of(case, seed, device)
            calls = {
                "clone": (batch.parts.clone, 1),
                "geodesic": (adjusting(GeodesicAdjuster, case, batch), 1),
            }
            taken = in_turn(calls, device, rounds, lambda: bar.advance(task))
            growth.append({"case": case.name, "seconds": taken, "clones": taken["geodesic"] / taken["clone"]})
        eight = next(g["clones"] for g, case in zip(growth, cases, strict=True) if case.queries == 8)
        goals.append(Goal("8 queries an object: <= 6 x clone", f"{eight:.2f} x", eight <= 6))

        memory = {}
        if device == "cpu" and Path("/proc/self/clear_refs").exists():
            task = bar.add_task("memory", total=len(CASES))
            for case in CASES:
                memory[case.name] = peak(case, seed)
                bar.advance(task)
            most = max(memory.values())
            goals.append(Goal("peak memory <= 4 x the vectors", f"{most:.2f} x", most <= 4))

    def ms(value: float) -> str:
        return f"{value * 1e3:.2f}"

    tables = [
        table(
            f"One call, median of {rounds} rounds in turn, on {device}",
            ["sessions x shown x dims", "clone ms", "geodesic ms", "torch ms", "sessions/s", "x torch",
             "x clone"],
            [
                (
                    row["case"], *(ms(row["seconds"][name]) for name in ("clone", "geodesic", "torch")),
                    f"{case.sessions / row['seconds']['geodesic']:,.0f}",
                    f"{row['times faster']:.0f}", f"{row['clones']:.2f}",
                )
                for row, case in zip(speed, CASES, strict=True)
            ],
        ),
        table(
            "Growth of GeodesicAdjuster",
            ["sessions x shown x dims", "clone ms", "geodesic ms", "us an object", "x clone"],
            [
                (
                    row["case"], ms(row["seconds"]["clone"]), ms(row["seconds"]["geodesic"]),
                    f"{row['seconds']['geodesic'] / case.sessions / SHOWN * 1e6:.2f}", f"{row['clones']:.2f}",
                )
                for row, case in zip(growth, cases, strict=True)
            ],
        ),
    ]  # fmt: skip
    if memory:
        rows = [(name, f"{times:.2f}") for name, times in memory.items()]
        tables.append(table("Peak memory, originals included", ["case", "x the vectors"], rows))
    result = {"device": device, "throughput": speed, "growth": growth, "memory": memory}
    finish("adjusters", facts, tables, result, goals, json_out, strict)


if __name__ == "__main__":
    typer.run(main)
