"""An OCI archive from trees of files; a pure function of what is in them.

Nothing of this machine comes in: names are sorted, times are zero, owners are root, and modes are 0755 or 0644.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
#: All images are of nothing before this; RFC 3339.
_CREATED: Final = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Image:
    """An archive and the digest by which its manifest is named."""

    archive: bytes
    digest: str


def image(references: Sequence[str], layers: Sequence[bytes], config: Mapping[str, Any]) -> Image:
    """Make the archive of one image.

    Args:
        references: full names, each with a tag (``registry/name:tag``); the first is the image's own.
        layers: uncompressed tars, lowest first; see ``layer``.
        config: the ``config`` object of the image's configuration (``User``, ``Entrypoint``, ``Env``, …).
    """
    packed = [_gzip(one) for one in layers]
    blobs = {digest_of(one): one for one in packed}
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": _CREATED,
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [digest_of(one) for one in layers]},
        "history": [{"created": _CREATED} for _ in layers],
    }
    configuration = _json(document)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, configuration),
            "layers": [_descriptor(_LAYER, one) for one in packed],
        }
    )
    blobs |= {digest_of(one): one for one in (configuration, manifest)}
    index = {
        "schemaVersion": 2,
        "manifests": [
            _descriptor(_MANIFEST, manifest)
            | {
                "annotations": {
                    "io.containerd.image.name": reference,
                    "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
                }
            }
            for reference in references
        ],
    }
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index)}
    files |= {f"blobs/sha256/{digest.partition(':')[2]}": blob for digest, blob in sorted(blobs.items())}
    return Image(_tar((name, data, 0o644) for name, data in files.items()), digest_of(manifest))


def layer(files: Mapping[str, bytes], programs: Mapping[str, bytes] | None = None) -> bytes:
    """Return a layer of a few files by their absolute paths; ``programs`` can be run."""
    found = {name.lstrip("/"): (data, 0o644) for name, data in files.items()}
    found |= {name.lstrip("/"): (data, 0o755) for name, data in (programs or {}).items()}
    return _tar((name, data, mode) for name, (data, mode) in sorted(found.items()))


def layer_of(tree: Path, below: str = "/") -> bytes:
    """Return a layer of all that is in a directory, put below a path."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        top = PurePosixPath(below.strip("/"))
        for parent in [*reversed(top.parents), top]:
            if str(parent) != ".":
                tar.addfile(_entry(str(parent), tarfile.DIRTYPE, 0o755))
        for path in sorted(_walk(tree), key=lambda one: str(one.relative_to(tree))):
            _add(tar, path, str(top / path.relative_to(tree)))
    return out.getvalue()


def digest_of(data: bytes) -> str:
    """Return ``sha256:…`` of a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _walk(tree: Path) -> Iterator[Path]:
    for entry in tree.iterdir():
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        entry = _entry(name, tarfile.SYMTYPE, 0o777)
        entry.linkname = str(path.readlink())
        tar.addfile(entry)
    elif stat.S_ISDIR(found.st_mode):
        # The sticky bit of /tmp is the one that means something.
        tar.addfile(_entry(name, tarfile.DIRTYPE, 0o1777 if found.st_mode & stat.S_ISVTX else 0o755))
    elif stat.S_ISREG(found.st_mode):
        entry = _entry(name, tarfile.REGTYPE, 0o755 if found.st_mode & 0o111 else 0o644)
        entry.size = found.st_size
        with path.open("rb") as data:
            tar.addfile(entry, data)


def _tar(files: Iterator[tuple[str, bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data, mode in files:
            entry = _entry(name, tarfile.REGTYPE, mode)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


def _gzip(data: bytes) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0, compresslevel=6, filename="") as packed:
        packed.write(data)
    return out.getvalue()


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(blob), "size": len(blob)}


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
