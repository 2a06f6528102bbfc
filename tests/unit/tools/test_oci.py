"""OCI archives: the same bytes from the same files, whatever else differs, and what the specification wants in them."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

from tools.image.oci import Image, digest_of, image, layer, layer_of


def files_of(archive: bytes) -> dict[str, bytes]:
    """What is in a tar, by name."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: read.read() for member in tar if (read := tar.extractfile(member)) is not None}


def blob(found: dict[str, bytes], digest: str) -> bytes:
    """A blob of a layout, with the digest it is named by."""
    data = found[f"blobs/sha256/{digest.removeprefix('sha256:')}"]
    assert digest_of(data) == digest
    return data


def tree(root: Path, *, mode: int, when: int) -> Path:
    """A few files, a link and a directory anybody may write to."""
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "usr" / "bin" / "program").write_bytes(b"#!")
    (root / "usr" / "bin" / "program").chmod(mode | 0o100)
    (root / "etc").mkdir(mode=0o700)
    (root / "etc" / "passwd").write_bytes(b"nobody\n")
    (root / "etc" / "passwd").chmod(mode)
    (root / "usr" / "bin" / "other").symlink_to("program")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    for path in sorted(root.rglob("*")):
        os.utime(path, (when, when), follow_symlinks=False)
    return root


def made(root: Path) -> Image:
    """An image of a tree and one file."""
    layers = [layer_of(root), layer_of(root / "etc", "/opt/deep/etc"), layer({"/a": b"1"}, {"/b": b"2"})]
    return image(["cellward.test/thing:1", "cellward.test/alias:2"], layers, {"User": "65532:65532"})


def test_two_builds_have_one_digest(tmp_path: Path) -> None:
    """Neither times nor the modes of who built it nor the order of a directory are in it."""
    one = made(tree(tmp_path / "one", mode=0o600, when=1))
    other = made(tree(tmp_path / "other", mode=0o644, when=1_700_000_000))
    assert one == other


def test_the_archive_is_a_layout_whose_digests_hold(tmp_path: Path) -> None:
    """Index, manifest, configuration and layers name one another by what they are; every name is in the index."""
    found_image = made(tree(tmp_path / "tree", mode=0o600, when=1))
    found = files_of(found_image.archive)
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index: dict[str, Any] = json.loads(found["index.json"])
    assert [one["annotations"]["io.containerd.image.name"] for one in index["manifests"]] == [
        "cellward.test/thing:1",
        "cellward.test/alias:2",
    ]
    assert {one["digest"] for one in index["manifests"]} == {found_image.digest}
    manifest = json.loads(blob(found, found_image.digest))
    config = json.loads(blob(found, manifest["config"]["digest"]))
    assert config["config"] == {"User": "65532:65532"}
    unpacked = [gzip.decompress(blob(found, one["digest"])) for one in manifest["layers"]]
    assert config["rootfs"]["diff_ids"] == [digest_of(one) for one in unpacked]


def test_what_a_layer_says_of_its_files(tmp_path: Path) -> None:
    """Everything is root's; programs can be run, links are links, and the directories above a prefix are there."""
    root = tree(tmp_path / "tree", mode=0o600, when=1)
    with tarfile.open(fileobj=io.BytesIO(layer_of(root))) as tar:
        modes = {member.name: member.mode for member in tar}
        assert {(member.uid, member.gid, member.mtime) for member in tar} == {(0, 0, 0)}
        assert tar.getmember("usr/bin/other").linkname == "program"
    assert modes["usr/bin/program"] == 0o755
    assert modes["etc/passwd"] == 0o644
    assert (modes["etc"], modes["tmp"]) == (0o755, 0o1777)
    with tarfile.open(fileobj=io.BytesIO(layer_of(root / "etc", "/opt/deep/etc"))) as tar:
        assert tar.getnames() == ["opt", "opt/deep", "opt/deep/etc", "opt/deep/etc/passwd"]
    with tarfile.open(fileobj=io.BytesIO(layer({"/a": b"1"}, {"/b": b"2"}))) as tar:
        assert {member.name: member.mode for member in tar} == {"a": 0o644, "b": 0o755}
