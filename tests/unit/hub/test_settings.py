"""Settings of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellward.errors import CellwardError
from hub.settings import load_settings
from tests.fakes.refusals import refused


def _load(tmp_path: Path, text: str) -> object:
    file = tmp_path / "hub.yaml"
    file.write_text(text)
    return load_settings(file)


def test_defaults_and_what_follows_from_them(tmp_path: Path) -> None:
    """One required field; database and advertised addresses follow from the others."""
    file = tmp_path / "hub.yaml"
    file.write_text(f"data_dir: {tmp_path}\nadvertise: {{link: hub.example:443}}\n")
    settings = load_settings(file)
    assert settings.database == f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}"
    assert settings.link_address == "hub.example:443"
    assert settings.enrolment_address == settings.listen.enrolment


def test_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment can override one value without a second file."""
    monkeypatch.setenv("CELLWARD_HUB_LISTEN__API", "127.0.0.1:9")
    file = tmp_path / "hub.yaml"
    file.write_text(f"data_dir: {tmp_path}\n")
    assert load_settings(file).listen.api == "127.0.0.1:9"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("data_dir: /x\nmore: 1\n", "more"),
        ("{}", "data_dir"),
        ("data_dir: /x\nlisten: {api: nowhere}\n", "listen.api"),
        ("data_dir: /x\nlisten: {api: 'h:99999'}\n", "listen.api"),
        ("data_dir: /x\ntimestamp_life_seconds: 100000\n", "timestamp_life_seconds"),
        ("data_dir: /x\njoin_token_seconds: 3600\n", "join_token_seconds"),
        ("data_dir: /x\ndata_dir: /y\n", "twice"),
        ("a: [", "YAML"),
        ("- 1", "mapping"),
        ("x" * 300_000, "larger"),
    ],
)
def test_bad_settings_name_the_field(tmp_path: Path, text: str, names: str) -> None:
    """V16: a wrong setting stops the start with a code and the field's name; limits of V6 and of design §2 hold."""
    with pytest.raises(CellwardError) as caught:
        _load(tmp_path, text)
    assert caught.value.code == "hub/bad-settings"
    assert names in caught.value.message


def test_missing_file_is_told(tmp_path: Path) -> None:
    """A file that is not there is an error with a code, not a traceback."""
    with refused("hub/bad-settings"):
        load_settings(tmp_path / "none.yaml")
