"""Settings: documented, coherent, and closed unless opened on purpose."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from improvement.settings import Settings, template

SERVERS = {"mongo_url": "mongodb://m", "redis_url": "redis://r", "qdrant_url": "http://q"}
KEYS = {"api_client_keys": "c" * 16, "api_operator_keys": "o" * 16}


def test_every_setting_says_what_it_means():
    assert all(field.description for field in Settings.model_fields.values())


def test_the_example_lists_every_setting_with_its_default():
    example = (Path(__file__).parents[2] / ".env.example").read_text()
    assert example.startswith(template()), "write it anew: python -m improvement settings"


def test_the_example_as_it_stands_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".env").write_text(template())
    monkeypatch.chdir(tmp_path)
    assert Settings() == Settings(_env_file=None)


@pytest.mark.parametrize("missing", [*SERVERS, *KEYS])
def test_production_refuses_to_start_without(missing: str):
    given: dict[str, Any] = {"environment": "production"} | SERVERS | KEYS
    del given[missing]
    with pytest.raises(ValidationError, match=missing.upper()):
        Settings(_env_file=None, **given)


def test_production_starts_with_everything():
    assert Settings(_env_file=None, environment="production", host="0.0.0.0", **SERVERS, **KEYS)


def test_an_open_service_stays_on_loopback():
    with pytest.raises(ValidationError, match="loopback"):
        Settings(_env_file=None, host="0.0.0.0")
    assert Settings(_env_file=None, host="0.0.0.0", **KEYS)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"api_client_keys": "short", "api_operator_keys": "o" * 16}, "16 characters"),
        ({"api_client_keys": "c" * 16}, "both or neither"),
        ({"domains": ""}, "at least one"),
        ({"port": 70_000}, "port"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], says: str):
    with pytest.raises(ValidationError, match=says):
        Settings(_env_file=None, **given)


def test_the_environment_is_read_and_lists_are_split(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DOMAINS", "a:domain, b:domain")
    monkeypatch.setenv("SESSION_IDLE_SECONDS", "60")
    monkeypatch.setenv("MONGO_URL", "")
    found = Settings(_env_file=None)
    assert found.domains == ("a:domain", "b:domain")
    assert found.session_idle_seconds == 60
    assert found.mongo_url is None


def test_the_interval_is_short_only_where_the_worker_is_inside():
    assert Settings(_env_file=None).interval == 5
    assert Settings(_env_file=None, redis_url="redis://r").interval == 1800
    assert Settings(_env_file=None, improvement_seconds_interval=7).interval == 7


def test_popularity_is_looked_at_often_only_where_the_worker_is_inside():
    assert Settings(_env_file=None).popularity_interval == 60
    assert Settings(_env_file=None, redis_url="redis://r").popularity_interval == 3_600
    assert Settings(_env_file=None, popularity_seconds_interval=7).popularity_interval == 7
    assert Settings(_env_file=None).profile_seconds_interval == 7_200
    for name in ("profile_seconds_interval", "popularity_seconds_interval"):
        with pytest.raises(ValidationError, match=name):
            Settings(_env_file=None, **{name: 0})


def test_secrets_do_not_show():
    shown = repr(Settings(_env_file=None, mongo_url="mongodb://user:hidden@m", **KEYS))
    assert "hidden" not in shown
    assert "cccc" not in shown
