"""docker-compose.yml, Dockerfile and .dockerignore say what they should; no Docker engine is needed to check.

compose-spec.json is the schema of the Compose Specification (Apache-2.0), as compose-go 2.9.1 ships it.
"""

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from dramatiq.cli import make_argument_parser
from jsonschema import Draft7Validator
from pymongo.uri_parser import parse_uri
from qdrant_client.common.version_check import is_compatible
from redis.connection import parse_url

from improvement.settings import Settings

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
APPS = ("api", "worker")
STORES = ("mongo", "redis", "qdrant")
ENVIRONMENT: dict[str, str | None] = SERVICES["api"]["environment"]
SECRETS = {
    "MONGO_ROOT_USERNAME": "root",
    "MONGO_ROOT_PASSWORD": "mongo-password",
    "REDIS_PASSWORD": "redis-password",
    "QDRANT_API_KEY": "qdrant-key",
    "API_CLIENT_KEYS": "client-key-in-use-now,client-key-of-tomorrow",
    "API_OPERATOR_KEYS": "operator-key-in-use",
}
#: `$$`, `${NAME}`, `${NAME:-default}` or `${NAME:?message}`: all of Compose's forms that the file uses.
REFERENCE = re.compile(r"\$(?:\$|\{(?P<name>[A-Z_]+)(?::(?P<form>[-?])(?P<rest>[^}]*))?\})")


def given(value: Any, variables: dict[str, str]) -> Any:
    """Put variables into a value as Compose does."""

    def one(match: re.Match[str]) -> str:
        if match["name"] is None:
            return "$"
        found = variables.get(match["name"], "")
        if match["form"] == "?" and not found:
            raise LookupError(match["rest"])
        return found or (match["rest"] if match["form"] == "-" else "")

    if isinstance(value, str):
        return REFERENCE.sub(one, value)
    if isinstance(value, dict):
        return {key: given(item, variables) for key, item in value.items()}
    return [given(item, variables) for item in value] if isinstance(value, list) else value


def errors(document: Any) -> list[str]:
    schema = json.loads((ROOT / "tests" / "compose-spec.json").read_text())
    return [error.message for error in Draft7Validator(schema).iter_errors(document)]


def test_the_compose_file_follows_the_compose_specification() -> None:
    assert errors(COMPOSE) == []


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [("api", "heathcheck", {}), ("mongo", "restart", True), ("worker", "depends_on", {"mongo": {}})],
)
def test_the_specification_notices_a_slip(service: str, key: str, value: Any) -> None:
    slipped = copy.deepcopy(COMPOSE)
    slipped["services"][service][key] = value
    assert errors(slipped)


def test_the_services_are_the_three_stores_api_and_worker() -> None:
    assert set(SERVICES) == {*APPS, *STORES}


def test_only_the_api_publishes_a_port_and_only_on_loopback() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"api"}
    assert SERVICES["api"]["ports"] == ["127.0.0.1:5000:5000"]
    assert not any("network_mode" in service or "expose" in service for service in SERVICES.values())


def test_the_stores_are_on_a_network_without_a_way_out() -> None:
    assert COMPOSE["networks"]["stores"] == {"internal": True}
    assert all(SERVICES[name]["networks"] == ["stores"] for name in STORES)
    assert all("stores" in SERVICES[name]["networks"] for name in APPS)


def test_every_service_has_a_health_check_and_comes_back_by_itself() -> None:
    for name, service in SERVICES.items():
        check = service["healthcheck"]
        assert check["test"][0] in {"CMD", "CMD-SHELL"}, name
        assert {"interval", "timeout", "retries", "start_period"} <= set(check), name
        assert service["restart"] == "unless-stopped", name


def test_every_container_is_unprivileged_and_bounded() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name
        assert not {"privileged", "cap_add", "pid", "devices"} & set(service), name
        assert not any("docker.sock" in volume for volume in service.get("volumes", [])), name


@pytest.mark.parametrize("name", APPS)
def test_api_and_worker_wait_until_every_store_is_healthy(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {store: {"condition": "service_healthy"} for store in STORES}


def test_api_and_worker_share_image_environment_and_hardening() -> None:
    shared = COMPOSE["x-app"]
    for name in APPS:
        assert {key: SERVICES[name].get(key) for key in shared} == shared
    assert "build" in SERVICES["api"]
    assert shared["image"] == f"{PROJECT['project']['name']}:{PROJECT['project']['version']}"


@pytest.mark.parametrize("name", STORES)
def test_a_store_keeps_its_data_in_a_named_volume(name: str) -> None:
    volumes = [volume.split(":")[0] for volume in SERVICES[name]["volumes"]]
    assert volumes
    assert set(volumes) <= set(COMPOSE["volumes"])


def test_every_image_is_pinned_and_qdrant_is_one_that_the_client_supports() -> None:
    tags = {name: service["image"].partition(":")[2] for name, service in SERVICES.items()}
    assert all(re.match(r"v?\d+\.\d+", tag) for tag in tags.values()), tags
    server = tags["qdrant"].removeprefix("v").partition("-")[0]
    assert is_compatible(version("qdrant-client"), server)


def test_every_setting_reaches_the_containers_and_nothing_else_does() -> None:
    # Where the process listens is the command's; the data folder is for embedded stores.
    settings = {name.upper() for name in Settings.model_fields} - {"HOST", "PORT", "DATA_DIR"}
    assert set(ENVIRONMENT) == settings


def test_the_settings_accept_what_compose_gives_and_keep_their_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    fixed = {name: value for name, value in given(ENVIRONMENT, SECRETS).items() if value is not None}
    for name, value in fixed.items():
        monkeypatch.setenv(name, value)
    settings = Settings(_env_file=None)
    assert settings.environment == "production"
    assert [key.get_secret_value() for key in settings.api_client_keys] == SECRETS["API_CLIENT_KEYS"].split(
        ","
    )
    assert settings.interval == 1800
    monkeypatch.delenv("DOMAINS")
    assert Settings(_env_file=None) == settings


def test_clients_and_stores_are_given_the_same_credentials() -> None:
    services = given(SERVICES, SECRETS)
    environment = services["api"]["environment"]

    mongo = parse_uri(environment["MONGO_URL"])
    login = services["mongo"]["environment"]
    assert mongo["nodelist"] == [("mongo", 27017)]
    assert mongo["username"] == login["MONGO_INITDB_ROOT_USERNAME"] == SECRETS["MONGO_ROOT_USERNAME"]
    assert mongo["password"] == login["MONGO_INITDB_ROOT_PASSWORD"] == SECRETS["MONGO_ROOT_PASSWORD"]
    assert mongo["options"] == {"authSource": "admin", "journal": True}

    redis = parse_url(environment["REDIS_URL"])
    command = services["redis"]["command"]
    assert (redis["host"], redis["port"]) == ("redis", 6379)
    assert redis["password"] == command[command.index("--requirepass") + 1] == SECRETS["REDIS_PASSWORD"]
    assert services["redis"]["environment"]["REDISCLI_AUTH"] == SECRETS["REDIS_PASSWORD"]
    assert command[command.index("--appendonly") + 1] == "yes"

    assert environment["QDRANT_URL"] == "http://qdrant:6333"
    key = services["qdrant"]["environment"]["QDRANT__SERVICE__API_KEY"]
    assert key == environment["QDRANT_API_KEY"] == SECRETS["QDRANT_API_KEY"]


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_without_a_secret_compose_refuses_and_names_it(missing: str) -> None:
    with pytest.raises(LookupError, match=f"^set {missing} in .env$"):
        given(COMPOSE, {**SECRETS, missing: ""})


def test_every_variable_is_in_env_example() -> None:
    code = re.sub(r"^\s*#.*$", "", TEXT, flags=re.MULTILINE)
    assert "$" not in REFERENCE.sub("", code), "a form of reference that these tests do not read"
    referenced = {match["name"] for match in REFERENCE.finditer(code)} - {None}
    passed_through = {name for name, value in ENVIRONMENT.items() if value is None}
    example = (ROOT / ".env.example").read_text()
    documented = set(re.findall(r"^#?\s*([A-Z_]+)=", example, re.MULTILINE))
    assert referenced | passed_through <= documented


@pytest.mark.parametrize(
    "command", [SERVICES["api"]["command"], SERVICES["worker"]["healthcheck"]["test"][1:]], ids=" ".join
)
def test_the_command_line_knows_the_command(command: list[str]) -> None:
    assert command[:3] == ["python", "-m", "improvement"]
    ran = subprocess.run(
        [sys.executable, *command[1:], "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr


def test_the_worker_command_names_a_module_that_exists() -> None:
    program, *arguments = SERVICES["worker"]["command"]
    assert program == "dramatiq"
    parsed = make_argument_parser().parse_args(arguments)
    assert importlib.util.find_spec(parsed.broker) is not None
    assert (parsed.processes, parsed.threads) == (1, 2)


@contextmanager
def answering(status: int) -> Iterator[int]:
    """Serve /readyz with a status on a free port, and 404 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(("name", "port"), [("api", "5000"), ("qdrant", "6333")])
def test_a_health_check_passes_only_when_readyz_says_so(name: str, port: str) -> None:
    kind, *check = given(SERVICES[name]["healthcheck"]["test"], {})
    assert kind == "CMD"
    assert port in check[-1]
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def passes(at: int) -> bool:
        command = [part.replace(port, str(at)) for part in check]
        return subprocess.run(command, capture_output=True, timeout=30, env=environment).returncode == 0

    with answering(200) as at:
        assert passes(at)
    assert not passes(at)
    with answering(503) as at:
        assert not passes(at)


def test_the_image_starts_the_api_and_does_not_run_as_root() -> None:
    command = re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)[-1]
    assert json.loads(command) == SERVICES["api"]["command"]
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)[-1] == "10001:10001"
    assert "HEALTHCHECK" not in DOCKERFILE


def test_the_image_installs_the_pins_of_pyproject(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    listing = re.search(r"python -c '([^']+)' > requirements.txt", DOCKERFILE)
    assert listing
    exec(listing[1])
    project = PROJECT["project"]
    pins = project["dependencies"] + project["optional-dependencies"]["minilm"]
    assert capsys.readouterr().out.splitlines() == pins
    assert sum(pin.startswith("torch==") for pin in pins) == 1  # the line that TORCH_INDEX_URL is about


def test_the_build_context_is_the_package_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    admitted = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    packages = {package.partition(".")[0] for package in PROJECT["tool"]["setuptools"]["packages"]}
    modules = {f"{module}.py" for module in PROJECT["tool"]["setuptools"]["py-modules"]}
    assert admitted == packages | modules | {"pyproject.toml", PROJECT["project"]["readme"], "LICENSE"}
    assert {name for name in admitted if not (ROOT / name).exists()} == set()
