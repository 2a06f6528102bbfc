"""Bundles made to hurt: each is refused with a stable code, nothing is written, the process lives (V16)."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest

from cellward.errors import CellwardError
from cellward.policy import bundle
from tests.fakes.policy import archive, denying, module

GOOD = json.dumps(
    {
        "roots": ["base"],
        "metadata": {"cellward": {"name": "base", "version": "1.0.0", "entrypoint": "base/deny"}},
    }
).encode()


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """Return one member of an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


def packed(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return an archive of members, unchecked."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as file:
        for info, data in entries:
            file.addfile(info, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), mtime=0)


def with_extra(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return a good bundle with further members."""
    return packed(entry(".manifest", GOOD), entry("base/main.rego", module("base", "x := 1")), *entries)


def manifest(**changes: object) -> bytes:
    """Return a good bundle with a changed manifest."""
    document = {**json.loads(GOOD), **changes}
    return packed(entry(".manifest", json.dumps(document).encode()), entry("base/a.rego", module("base", "x := 1")))


def code_of(data: bytes) -> str:
    """Return the code a bundle is refused with."""
    with pytest.raises(CellwardError) as caught:
        bundle.read_bundle(data)
    return caught.value.code


def test_the_control_is_accepted() -> None:
    """What the cases below break is accepted whole, so that each fails for its own reason."""
    assert bundle.read_bundle(with_extra()).roots == ("base",)
    assert bundle.read_bundle(manifest()).name == "base"


@pytest.mark.parametrize(
    "extra",
    [
        entry("../x.rego", b"package base"),
        entry("base/../../x.rego", b"package base"),
        entry("//x.rego", b"package base"),
        entry("base//x.rego", b"package base"),
        entry("base/./x.rego", b"package base"),
        entry("base\\x.rego", b"package base"),
        entry("base/\x01.rego", b"package base"),
        entry("C:/x.rego", b"package base"),
        entry("base/link.rego", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        entry("base/hard.rego", kind=tarfile.LNKTYPE, link="base/main.rego"),
        entry("base/device.rego", kind=tarfile.CHRTYPE),
        entry("base/pipe.rego", kind=tarfile.FIFOTYPE),
        entry("base/main.rego", b"package base"),
        entry("./base/main.rego", b"package base"),
        entry("/base/main.rego", b"package base"),
        entry("policy.wasm", b"x"),
        entry("patch.json", b"{}"),
        entry(".signatures.json", b"{}"),
        entry("base/data.yaml", b"a: 1"),
        entry("/".join(["base"] * 13) + "/x.rego", b"package base"),
        entry("base/" + "a" * 300 + ".rego", b"package base"),
    ],
    ids=lambda item: item[0].name[:40],
)
def test_hostile_entries(extra: tuple[tarfile.TarInfo, bytes]) -> None:
    """Paths that leave, links, devices, duplicates in any spelling, files of other kinds."""
    assert code_of(with_extra(extra)) == "policy/bad-bundle"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not gzip",
        gzip.compress(b"not a tar, but long enough to look at" * 40, mtime=0),
        denying("Bad")[:-10],
        denying("Bad") + b"tail",
        denying("Bad") + denying("Good"),
        packed(entry("base/main.rego", module("base", "x := 1"))),
        gzip.compress(b"\x00" * 10240, mtime=0),
    ],
)
def test_broken_archives(data: bytes) -> None:
    """Cut off, followed by something, empty, or not an archive at all."""
    assert code_of(data) == "policy/bad-bundle"


def test_bombs() -> None:
    """Size is bounded before it is spent: archive, unpacked, one file, number of entries."""
    assert code_of(gzip.compress(b"\x00" * (bundle.MAX_UNPACKED + 1))) == "policy/bundle-too-large"
    assert code_of(b"\x1f\x8b" + b"\x00" * bundle.MAX_ARCHIVE) == "policy/bundle-too-large"
    big = entry("base/data.json", b" " * (bundle.MAX_FILE + 1))
    assert code_of(with_extra(big)) == "policy/bundle-too-large"
    many = [entry(f"base/f{index}.rego", b"package base") for index in range(bundle.MAX_FILES)]
    assert code_of(with_extra(*many)) == "policy/bundle-too-large"
    folders = [entry(f"d{index}", kind=tarfile.DIRTYPE) for index in range(bundle.MAX_FILES + 1)]
    assert code_of(packed(*folders)) == "policy/bundle-too-large"


@pytest.mark.parametrize(
    "roots",
    [
        None, [], [""], ["system"], ["system/authz"], ["cellward_gate"], ["cellward_gate/x"], ["base", "system"],
        ["base", "base"], ["base", "base/x"], ["a/b", "a"], ["/base"], ["base/"], ["base//x"], ["."], ["*"], [1],
        "base", {"base": 1}, ["base"] * 17, ["ba se"], ["base\n"],
    ],
)  # fmt: skip
def test_hostile_roots(roots: object) -> None:
    """Roots that are absent, everything, the engine's, the gate's, or overlap."""
    assert code_of(manifest(roots=roots)) == "policy/bad-roots"


@pytest.mark.parametrize(
    "changes",
    [
        {"rego_version": 0},
        {"file_rego_versions": {"/base/a.rego": 0}},
        {"wasm": [{"entrypoint": "base/deny", "module": "/policy.wasm"}]},
        {"metadata": {}},
        {"metadata": {"cellward": {"name": "base", "version": "1", "entrypoint": "system/authz/allow"}}},
        {"metadata": {"cellward": {"name": "base", "version": "1", "entrypoint": "base"}}},
        {"metadata": {"cellward": {"name": "../x", "version": "1", "entrypoint": "base/deny"}}},
        {"metadata": {"cellward": {"name": "base", "version": "1/2", "entrypoint": "base/deny"}}},
        {"metadata": {"cellward": {"name": "base", "version": "1", "entrypoint": 'base/deny"]'}}},
    ],
)
def test_hostile_manifests(changes: dict[str, object]) -> None:
    """Old Rego, other engines, names and entrypoints that lead elsewhere."""
    assert code_of(manifest(**changes)) == "policy/bad-bundle"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"package system.authz\n", "policy/bad-roots"),
        (b"package cellward_gate\n", "policy/bad-roots"),
        (b"package basex\n", "policy/bad-roots"),
        (b"# package base\npackage system.authz\n", "policy/bad-roots"),
        (b"# x\rpackage base\npackage system.authz\n", "policy/bad-bundle"),
        ("# x\u2028package base\n".encode(), "policy/bad-bundle"),
        (b"\xef\xbb\xbfpackage base\n", "policy/bad-bundle"),
        (b"\xff\xfepackage base\n", "policy/bad-bundle"),
        (b'package base["x"]\n', "policy/bad-bundle"),
        (b"package base; x := 1\n", "policy/bad-bundle"),
        (b"import data.x\npackage base\n", "policy/bad-bundle"),
        (b"# nothing\n", "policy/bad-bundle"),
        (b"", "policy/bad-bundle"),
    ],
)
def test_hostile_packages(text: bytes, code: str) -> None:
    """Packages outside the roots, however they are hidden."""
    assert code_of(with_extra(entry("base/x.rego", text))) == code


@pytest.mark.parametrize(
    ("path", "text", "code"),
    [
        ("data.json", b'{"system": {"x": 1}}', "policy/bad-roots"),
        ("data.json", b"[]", "policy/bad-roots"),
        ("other/data.json", b"{}", ""),
        ("other/data.json", b'{"x": 1}', "policy/bad-roots"),
        ("base/data.json", b'{"x": 1}', ""),
        ("data.json", b'{"base": {"x": 1}}', ""),
        ("base/data.json", b'{"x": 1, "x": 2}', "policy/bad-bundle"),
        ("base/data.json", b"NaN", "policy/bad-bundle"),
        ("base/data.json", b'{"a": 1e999}', "policy/bad-bundle"),
        ("base/data.json", b"[" * 100_000, "policy/bad-bundle"),
    ],
)
def test_data_stays_under_the_roots(path: str, text: bytes, code: str) -> None:
    """Data outside the roots, or that two readers read differently."""
    data = with_extra(entry(path, text))
    if code:
        assert code_of(data) == code
    else:
        bundle.read_bundle(data)


def test_two_bundles_may_not_share_a_root() -> None:
    """One bundle must not silently replace another's rules; whole segments are compared."""
    first = bundle.read_bundle(archive("base", "1", "x := 1"))
    second = bundle.read_bundle(archive("base", "2", "x := 2"))
    other = bundle.read_bundle(archive("basement", "1", "x := 2"))
    bundle.check_disjoint([first, other])
    with pytest.raises(CellwardError) as caught:
        bundle.check_disjoint([first, second])
    assert caught.value.code == "policy/roots-overlap"
