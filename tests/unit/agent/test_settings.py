"""Settings of the agent: strict, with errors that name the field."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agent.settings import load_settings
from cellward.errors import CellwardError

GOOD: dict[str, object] = {
    "realm": "sha256:" + "a" * 64,
    "state_dir": "/var/lib/cellward",
    "root_file": "/etc/cellward/root.json",
    "enrolment_address": "hub.example.org:7443",
    "hub_ca_file": "/etc/cellward/hub-ca.pem",
    "facts": {"name": "eu-1", "environments": ["dev"], "production": False},
}


def write(tmp_path: Path, text: str) -> Path:
    """A settings file."""
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return path


def test_a_minimal_file_is_enough(tmp_path: Path) -> None:
    """Everything else has a default; nothing in it is the agent's name (V3)."""
    settings = load_settings(write(tmp_path, yaml.safe_dump(GOOD)))
    assert settings.facts.projects == ("*",)
    assert settings.intervals.heartbeat == 60
    assert settings.namespace == "cellward-system"
    assert "name" not in type(settings).model_fields


def test_a_setting_that_is_no_more_does_not_end_an_upgrade(tmp_path: Path) -> None:
    """V16: what nobody reads any more is left out of the file of an earlier version; anything else is still refused."""
    assert load_settings(write(tmp_path, yaml.safe_dump({**GOOD, "display_name": "eu-1"}))).facts.name == "eu-1"
    with pytest.raises(CellwardError) as caught:
        load_settings(write(tmp_path, yaml.safe_dump({**GOOD, "display_names": "eu-1"})))
    assert caught.value.code == "settings/invalid"


def test_the_environment_beats_the_file_field_by_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One nested value can be set without losing its neighbours."""
    monkeypatch.setenv("CELLWARD_AGENT_INTERVALS__HEARTBEAT", "3")
    settings = load_settings(write(tmp_path, yaml.safe_dump({**GOOD, "intervals": {"heartbeat": 7, "status": 9}})))
    assert (settings.intervals.heartbeat, settings.intervals.status) == (3, 9)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"realm": "abc"}, "realm"),
        ({"surprise": 1}, "surprise"),
        ({"facts": {"name": "eu-1", "environments": ["dev"]}}, "facts.production"),
        ({"facts": {"name": "eu-1", "environments": ["a--b"], "production": True}}, "facts.environments"),
        ({"facts": {"name": "eu-1", "environments": [], "production": True}}, "facts.environments"),
        ({"facts": {"name": "eu-1", "environments": ["dev"], "production": True, "extra": 1}}, "facts.extra"),
        ({"enrolment_address": "hub.example.org"}, "enrolment_address"),
        ({"enrolment_address": "hub.example.org:99999"}, "enrolment_address"),
        ({"metrics_listen": "0.0.0.0:9090"}, "metrics_listen"),
        ({"intervals": {"metrics": 0}}, "intervals.metrics"),
    ],
)
def test_v16_a_wrong_value_is_named(tmp_path: Path, change: dict[str, object], named: str) -> None:
    """The error says which field; V1: a port outside loopback is one of them."""
    with pytest.raises(CellwardError) as caught:
        load_settings(write(tmp_path, yaml.safe_dump({**GOOD, **change})))
    assert caught.value.code == "settings/invalid"
    assert f"{named}:" in caught.value.message


@pytest.mark.parametrize(
    "text", ["", "- a", "a: [", "a: 1\na: 2\n", "\x00", "x: " + "y" * 300_000, "1: 2", "!!python/object:os.x {}"]
)
def test_v16_a_file_that_is_not_one_mapping_is_refused(tmp_path: Path, text: str) -> None:
    """Empty, a list, broken, a key twice, binary, too large, a number as key, a Python tag."""
    with pytest.raises(CellwardError) as caught:
        load_settings(write(tmp_path, text))
    assert caught.value.code == "settings/invalid"


def test_a_missing_file_is_an_answer(tmp_path: Path) -> None:
    """Not a traceback."""
    with pytest.raises(CellwardError, match="cannot be read"):
        load_settings(tmp_path / "absent.yaml")


_GATED: dict[str, object] = {
    **GOOD, "start_gate": "proved", "prober_image": "cellward.local/agent@sha256:0", "health_listen": "0.0.0.0:7445"
}  # fmt: skip


def test_v9_a_start_gate_is_asked_for_with_all_it_needs(tmp_path: Path) -> None:
    """None by default; where it cannot be, the agent does not start as if it were."""
    assert load_settings(write(tmp_path, yaml.safe_dump(GOOD))).start_gate == "none"
    assert load_settings(write(tmp_path, yaml.safe_dump(_GATED))).start_gate == "proved"
    for lacking in ({"prober_image": ""}, {"health_listen": ""}, {"kubeconfig": "/k"}, {"start_gate": "sometimes"}):
        with pytest.raises(CellwardError) as caught:
            load_settings(write(tmp_path, yaml.safe_dump({**_GATED, **lacking})))
        assert "start_gate" in caught.value.message


def test_v9_the_environment_takes_no_start_gate_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no tunable: without it pods start open."""
    monkeypatch.setenv("CELLWARD_AGENT_START_GATE", "none")
    with pytest.raises(CellwardError, match="START_GATE"):
        load_settings(write(tmp_path, yaml.safe_dump(_GATED)))
