"""The arrows of the design: who may import whom, and what an import must not do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"clickstream", "improvement", "plugins", "worker", "demo", "benchmarks", "tests"}

#: Inside improvement, lower rooms know nothing of higher ones. A module not named here is a mistake.
FLOORS: dict[str, int] = {
    "errors": 0, "login": 0, "objects": 0, "selection": 0, "settings": 0, "telemetry": 0, "interleaving": 0,
    "evidence": -1, "propensity": 0, "propensity_store": 0, "domain": 1, "encoders": 1, "inputs": 1,
    "similarity": 2, "background": 1, "embedded": 1, "adjusters.base": 3, "adjusters.torch_based": 4,
    "adjusters.geodesic": 7, "adjusters.compiled": 3, "adjusters.on_device": 4, "adjusters.planes": 5,
    "adjusters.evidence_rows": 6, "filters": 2, "edge": 3, "edge_types": 2, "edge_filters": 1,
    "filter_values": 1, "vectors": 3, "releases": 4, "schemas": 4, "copies": 5, "promotion": 7,
    "promotion_log": 2, "security": 1, "originals": 4, "catalogue": 7, "search": 6, "improver": 7,
    "periodic": 8, "jobs": 10, "wiring": 10, "routes": 11, "api": 14, "__main__": 15, "erasure": 8,
    "user_routes": 13, "popularity": 1, "popularity_store": 0, "profiles.made": 5, "profiles.batch": 6,
    "batch_routes": 12, "profiles.settings": 0, "profiles.sphere": 0, "profiles.online": 1,
    "profiles.negative": 1, "profiles.steering": 2, "profiles.interests": 2, "profiles.profile": 2,
    "profiles.documents": 3, "profiles.cache": 3, "profiles.store": 4, "recommended": 7, "nearest": 8,
    "fallbacks": 8, "two_tower.recommending": 9, "recommend": 10, "patience": 0, "two_tower.user_vectors": 1,
    "two_tower.embedding": 7, "embed_routes": 12, "profiles.usable": 3, "profiles.diversity": 1,
    "profile_routes": 12, "profiles.neighbours": 5, "profiles.live": 5, "profiles.history": 3,
    "profiles.searched": 6, "evaluation.metrics": 0, "evaluation.dataset": 1, "evaluation.report": 1,
    "evaluation.ranking": 2, "evaluation.options": 2, "evaluation.table": 2, "evaluation.behaviour": 0,
    "evaluation.profiles": 7, "evaluation.learner": 8, "evaluation.judging": 8, "evaluation.replay": 9,
    "evaluation.log": 9, "replay_cli": 12, "evaluation.side": 5, "evaluation.sessions": 6,
    "evaluation.learned": 8, "evaluation.pairs": 2, "evaluation.paired_log": 9,
    "evaluation.paired_dataset": 7, "evaluation.whole": 7, "evaluation.gate": 2, "evaluation.gate_report": 8,
    "evaluation.gate_plots": 0, "evaluation.gate_page": 1, "green.gating": 10, "bounds": -1,
    "green.settings": 0, "quality.settings": 0, "quality.learning": 1, "quality.alerts": 1,
    "adjusters.population": 4, "green.learned": 5, "green.population_store": 2, "green.shapes": 5,
    "green.mirror": 6, "green.builds": 1, "green.reports": 1, "green.orders": 9, "green.building": 11,
    "green_routes": 12, "green_cli": 13, "green.rule": 5, "green.watch": 8, "evaluation.drift": 0,
    "evaluation.clickthrough": 0, "quality.webhook": 0, "quality.samples": 1, "quality.audits": 1,
    "quality.evidence_day": 2, "quality.moved": 8, "quality.coverage": 8, "quality.healing": 8,
    "quality.audit": 9, "quality.gauges": 8, "quality_routes": 13, "quality_cli": 13, "terminal": 11,
    "two_tower.settings": 0, "experiments.settings": 0, "experiments.assignment": 1,
    "experiments.treatment": 2, "experiments.sequential": 0, "experiments.estimates": 1,
    "experiments.measured": 1, "experiments.results": 2, "experiments.reading": 3, "experiments.plots": 3,
    "experiment_routes": 13, "experiment_cli": 14, "two_tower.facts": 1, "two_tower.exact": 1,
    "two_tower.names": 2, "two_tower.engagement": 2, "two_tower.entries": 3, "two_tower.sampling": 0,
    "two_tower.pairs": 3, "two_tower.documents": 2, "two_tower.moves": 1, "two_tower.engaged": 7,
    "two_tower.batches": 2, "two_tower.padded": 2, "two_tower.state": 1, "two_tower.losses": 3,
    "two_tower.rows": 2, "two_tower.model": 3, "two_tower.trainer": 4, "two_tower.tower": 5,
    "two_tower.checkpoints": 3, "two_tower.packed": 2, "two_tower.progress": 0, "two_tower.reading": 6,
    "two_tower.serving": 6, "two_tower.shapes": 7, "two_tower.live": 8, "two_tower.catching_up": 9,
    "two_tower.anchoring": 9, "two_tower.training": 12, "two_tower.examples": 4, "two_tower.passed_over": 8,
    "two_tower.lineage": 8, "two_tower.negatives": 9, "two_tower.training_batch": 10,
    "two_tower.training_round": 11, "two_tower.curve": 4, "two_tower.resetting": 4, "two_tower.following": 8,
    "two_tower.publishing": 8, "two_tower.beginning": 9, "two_tower.next_engagement": 8,
    "two_tower.tower_gate": 9, "two_tower.switching": 9, "two_tower.reverting": 10,
    "two_tower.releasing": 11, "two_tower.overview": 11, "towers_routes": 13, "towers_cli": 14,
    "two_tower.vital_signs": 4, "two_tower.measuring": 8, "two_tower.tower_drift": 9,
    "two_tower.recomputing": 9, "two_tower.healing": 11, "two_tower.audit": 12, "two_tower.jobs": 13,
    "two_tower.untrained": 8, "two_tower.damaged": 8, "two_tower.sound": 9, "two_tower.unmoved": 8,
    "served": 5, "queries": 2, "lessons": 8, "renewal": 9, "quality.limits": 6, "quality.growth": 5,
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Every absolute module name a file imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", sorted((ROOT / "clickstream").rglob("*.py")), ids=str)
def test_the_clickstream_imports_neither_learning_nor_its_stores(path: Path):
    assert not tops(path) & {"torch", "qdrant_client", "qdrant_edge", "improvement", "plugins", "worker"}


@pytest.mark.parametrize("path", sorted((ROOT / "improvement").rglob("*.py")), ids=str)
def test_improvement_imports_no_plugin_and_no_entry_point(path: Path):
    assert not tops(path) & {"plugins", "worker", "demo", "benchmarks", "tests"}


def test_inside_improvement_arrows_point_down():
    modules = {
        ".".join(path.relative_to(ROOT / "improvement").with_suffix("").parts): path
        for path in (ROOT / "improvement").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert modules.keys() == FLOORS.keys(), "name the new module's floor"
    for name, path in modules.items():
        source = path.read_text().replace("if TYPE_CHECKING:", "if False:")
        lines = ast.parse(source)
        typing_only = {
            inner
            for node in ast.walk(lines)
            if isinstance(node, ast.If) and isinstance(node.test, ast.Constant) and node.test.value is False
            for inner in ast.walk(node)
        }
        for node in ast.walk(lines):
            if isinstance(node, ast.ImportFrom) and node.module and node not in typing_only:
                target = node.module.removeprefix("improvement.")
                if node.module.startswith("improvement.") and target in FLOORS:
                    assert FLOORS[target] < FLOORS[name], f"improvement.{name} imports {node.module}"


@pytest.mark.parametrize(
    ("owner", "name"),
    [("vectors", "PointStruct"), ("releases", "update_collection_aliases"), ("releases", "CreateAlias")],
)
def test_only_one_file_speaks_points_and_only_one_speaks_aliases(owner: str, name: str):
    speakers = {
        path.stem for path in (ROOT / "improvement").rglob("*.py") if name in path.read_text()
    } - {"edge", "edge_types", "edge_filters"}  # fmt: skip
    assert speakers == {owner}


def test_only_the_stores_and_the_wiring_speak_mongo():
    speakers = {
        path.relative_to(ROOT).as_posix()
        for package in ("clickstream", "improvement", "plugins")
        for path in (ROOT / package).rglob("*.py")
        if "pymongo" in tops(path)
    }
    assert speakers == {
        "clickstream/store.py", "clickstream/improvement_queue.py", "improvement/releases.py",
        "clickstream/actions.py",
        "improvement/wiring.py", "improvement/embedded.py", "improvement/api.py", "improvement/patience.py",
        "improvement/propensity_store.py", "improvement/popularity_store.py",
        "improvement/profiles/store.py",
        "improvement/green/population_store.py", "improvement/green/builds.py",
        "improvement/green/reports.py", "improvement/quality/learning.py",
        "improvement/promotion_log.py", "improvement/quality/alerts.py", "improvement/quality/audits.py",
        "improvement/quality/samples.py", "improvement/two_tower/entries.py",
        "improvement/two_tower/pairs.py", "improvement/two_tower/checkpoints.py",
        "improvement/two_tower/progress.py",
    }  # fmt: skip


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_web_process_loads_no_torch_not_even_with_its_plugins():
    result = run(
        "import sys, improvement.api\n"
        "from improvement.wiring import load_domains\n"
        "load_domains(['plugins.documents:domain', 'plugins.ecommerce:domain', 'plugins.default:domain',"
        " 'plugins.feed:domain'])\n"
        "assert not {'torch', 'numba', 'sentence_transformers'} & sys.modules.keys()"
    )
    assert result.returncode == 0, result.stderr


def test_nothing_connects_on_import():
    result = run(
        "import os, socket\n"
        "def refuse(*a, **k): raise AssertionError('connected on import')\n"
        "socket.socket.connect = refuse\n"
        "os.environ['REDIS_URL'] = 'redis://127.0.0.1:1/0'\n"
        "import worker, improvement.api, improvement.__main__, plugins.documents, clickstream.api"
    )
    assert result.returncode == 0, result.stderr
