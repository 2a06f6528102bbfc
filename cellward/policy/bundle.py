"""Reading and building OPA bundles: hardened against hostile archives, deterministic when built.

A bundle is a gzip-compressed tar with ``.manifest``, Rego v1 modules and ``data.json`` files, so that ``opa test``,
``opa eval`` and editors work on its directory. What is read here is never handed on as the original archive: the
engine gets :meth:`Bundle.repacked`, so no difference between tar readers can matter. The digest is that of the
archive as signed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import re
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from cellward.documents.strict import strict_json
from cellward.policy.errors import BAD_BUNDLE, BAD_ROOTS, BUNDLE_TOO_LARGE, ROOTS_OVERLAP

if TYPE_CHECKING:
    from pathlib import Path

MAX_ARCHIVE = 4 * 1024 * 1024
MAX_UNPACKED = 16 * 1024 * 1024
MAX_FILE = 2 * 1024 * 1024
MAX_FILES = 512
MAX_DEPTH = 12
MAX_PATH = 200
#: First segments of roots that belong to the engine's guard and to the agent's gate.
RESERVED = ("system", "cellward_gate")
MANIFEST = ".manifest"

_IDENT = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
_ROOT = re.compile(rf"{_IDENT}(/{_IDENT}){{0,7}}\Z")
_PACKAGE = re.compile(rf"package[ \t]+({_IDENT}(?:\.{_IDENT}){{0,7}})[ \t]*(?:#.*)?\Z")
_SEGMENT = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,63}\Z")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029\ufeff]")
_MANIFEST_FIELDS = {"revision", "roots", "rego_version", "metadata"}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that passed every check of this module.

    ``roots`` and ``entrypoint`` are slash paths below ``data``; ``digest`` is of the archive as given;
    ``files`` maps normalised relative path to content.
    """

    name: str
    version: str
    roots: tuple[str, ...]
    entrypoint: str
    digest: str
    files: Mapping[str, bytes]

    @property
    def target_path(self) -> str:
        """TUF target path of the bundle."""
        return f"bundles/{self.name}-{self.version}.tar.gz"

    def repacked(self) -> bytes:
        """Return an archive of exactly the files that were checked."""
        return pack(self.files)


def _refuse(message: str, path: str = "") -> NoReturn:
    raise BAD_BUNDLE(f"{path}: {message}" if path else message, file=path)


def read_bundle(data: bytes) -> Bundle:
    """Read and check a bundle archive.

    Raises policy/bad-bundle, policy/bad-roots or policy/bundle-too-large; nothing is written anywhere.
    """
    files = _unpack(_inflate(data))
    manifest = _manifest(files)
    bundle = _describe(manifest, files, "sha256:" + hashlib.sha256(data).hexdigest())
    for path, content in files.items():
        if path.endswith(".rego"):
            _check_module(path, content, bundle.roots)
        elif path != MANIFEST:
            _check_data(path, content, bundle.roots)
    return bundle


def _inflate(data: bytes) -> bytes:
    if len(data) > MAX_ARCHIVE:
        raise BUNDLE_TOO_LARGE(f"the archive has {len(data)} bytes, more than {MAX_ARCHIVE}")
    stream = zlib.decompressobj(wbits=31)
    try:
        out = stream.decompress(data, MAX_UNPACKED + 1)
    except zlib.error:
        _refuse("the archive is not gzip")
    if len(out) > MAX_UNPACKED:
        raise BUNDLE_TOO_LARGE(f"the archive unpacks to more than {MAX_UNPACKED} bytes")
    if not stream.eof or stream.unused_data:
        _refuse("the gzip stream is cut off or followed by something else")
    return out


def _unpack(data: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    entries = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                entries += 1
                if entries > MAX_FILES:
                    raise BUNDLE_TOO_LARGE(f"the archive has more than {MAX_FILES} entries")
                if member.isdir():
                    continue
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                    _refuse("is neither a plain file nor a directory", member.name[:MAX_PATH])
                path = _normalise(member.name)
                if path in files:
                    _refuse("occurs twice", path)
                if member.size > MAX_FILE:
                    raise BUNDLE_TOO_LARGE(f"{path} has {member.size} bytes, more than {MAX_FILE}", file=path)
                handle = archive.extractfile(member)
                content = handle.read(MAX_FILE + 1) if handle is not None else b""
                if len(content) != member.size:
                    _refuse("is cut off", path)
                files[path] = content
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as error:
        raise BAD_BUNDLE(f"the archive is not a readable tar: {type(error).__name__}") from error
    return files


def _normalise(name: str) -> str:
    # `opa build` writes absolute names, `tar .` writes "./"; both mean the bundle's own root.
    path = name.removeprefix("./").removeprefix("/")
    segments = path.split("/")
    if len(path) > MAX_PATH or len(segments) > MAX_DEPTH:
        _refuse("path is too long or too deep", name[:MAX_PATH])
    if any(not _SEGMENT.match(segment) or segment in {".", ".."} for segment in segments):
        _refuse("path has a forbidden segment", name[:MAX_PATH])
    if path != MANIFEST and not (path.endswith(".rego") or segments[-1] == "data.json"):
        _refuse("is not .manifest, a .rego module or data.json", path)
    return path


def _json(path: str, content: bytes) -> object:
    try:
        return strict_json(content)
    except ValueError as error:
        raise BAD_BUNDLE(f"{path}: is not strict JSON: {error}", file=path) from error


def _manifest(files: Mapping[str, bytes]) -> Mapping[str, object]:
    if MANIFEST not in files:
        _refuse("there is no .manifest")
    manifest = _json(MANIFEST, files[MANIFEST])
    if not isinstance(manifest, dict):
        _refuse("is not an object", MANIFEST)
    unknown = sorted(set(manifest) - _MANIFEST_FIELDS)
    if unknown:
        _refuse(f"has fields that are not supported: {', '.join(unknown)[:200]}", MANIFEST)
    if manifest.get("rego_version", 1) != 1:
        _refuse("rego_version must be 1", MANIFEST)
    return manifest


def _describe(manifest: Mapping[str, object], files: Mapping[str, bytes], digest: str) -> Bundle:
    roots = _roots(manifest.get("roots"))
    metadata = manifest.get("metadata")
    own = metadata.get("cellward") if isinstance(metadata, dict) else None
    if not isinstance(own, dict) or set(own) != {"name", "version", "entrypoint"}:
        _refuse("metadata.cellward must have exactly name, version and entrypoint", MANIFEST)
    name, version, entrypoint = own["name"], own["version"], own["entrypoint"]
    if not isinstance(name, str) or not _NAME.match(name):
        _refuse("metadata.cellward.name must be an RFC 1123 label of at most 40 characters", MANIFEST)
    if not isinstance(version, str) or not _VERSION.match(version):
        _refuse("metadata.cellward.version must be a plain version", MANIFEST)
    if not isinstance(entrypoint, str) or not _ROOT.match(entrypoint) or "/" not in entrypoint:
        _refuse("metadata.cellward.entrypoint must be a slash path to a rule", MANIFEST)
    if not _under(entrypoint.split("/")[:-1], roots):
        _refuse("metadata.cellward.entrypoint is not under a root", MANIFEST)
    return Bundle(name, version, roots, entrypoint, digest, dict(files))


def _roots(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 16:
        raise BAD_ROOTS(".manifest must name between 1 and 16 roots")
    roots: list[str] = []
    for root in value:
        if not isinstance(root, str) or not _ROOT.match(root):
            raise BAD_ROOTS(f"root {str(root)[:80]!r} is not a plain slash path")
        if root.split("/")[0] in RESERVED:
            raise BAD_ROOTS(f"root {root!r} belongs to the engine", root=root)
        roots.append(root)
    clash = _clash([(root, "") for root in roots])
    if clash:
        raise BAD_ROOTS(f"roots {clash[0]!r} and {clash[1]!r} overlap")
    return tuple(roots)


def _clash(roots: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """Return two overlapping roots; entries are (root, owner) and are compared by whole segments."""
    ordered = sorted((tuple(root.split("/")), root) for root, _ in roots)
    for (first, first_text), (second, second_text) in itertools.pairwise(ordered):
        if second[: len(first)] == first:
            return first_text, second_text
    return None


def check_disjoint(bundles: Iterable[Bundle]) -> None:
    """Refuse bundles whose roots overlap, since one would silently replace the other's rules (policy/roots-overlap)."""
    clash = _clash([(root, bundle.name) for bundle in bundles for root in bundle.roots])
    if clash:
        raise ROOTS_OVERLAP(f"roots {clash[0]!r} and {clash[1]!r} of two bundles overlap")


def _under(path: list[str], roots: tuple[str, ...]) -> bool:
    return any(path[: len(parts)] == parts for parts in (root.split("/") for root in roots))


def _check_module(path: str, content: bytes, roots: tuple[str, ...]) -> None:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        _refuse("is not UTF-8", path)
    # Line ends that Rego and we might read differently could hide the package clause in a comment.
    text = text.replace("\r\n", "\n")
    if _CONTROL.search(text):
        _refuse("has control characters", path)
    for line in text.split("\n"):
        stripped = line.strip(" \t")
        if not stripped or stripped.startswith("#"):
            continue
        match = _PACKAGE.match(stripped)
        if match is None:
            _refuse("must begin with a plain package clause", path)
        if not _under(match.group(1).split("."), roots):
            raise BAD_ROOTS(f"{path}: package {match.group(1)} is not under a root of the bundle", file=path)
        return
    _refuse("has no package clause", path)


def _check_data(path: str, content: bytes, roots: tuple[str, ...]) -> None:
    value = _json(path, content)
    where = path.split("/")[:-1]
    pending: list[tuple[list[str], object]] = [(where, value)]
    while pending:
        place, document = pending.pop()
        if _under(place, roots):
            continue
        if not isinstance(document, dict) or len(place) > MAX_DEPTH:
            raise BAD_ROOTS(f"{path}: data at {'/'.join(place) or '/'} is not under a root of the bundle", file=path)
        pending.extend(([*place, key], inner) for key, inner in document.items())


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of files by path; the same files give the same bytes."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(files):
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.mtime = len(files[path]), 0o644, 0
            archive.addfile(info, io.BytesIO(files[path]))
    return gzip.compress(raw.getvalue(), mtime=0)


def build_bundle(directory: Path) -> bytes:
    """Build a bundle archive from a directory; the same files give the same bytes.

    Modules (without ``*_test.rego``), ``data.json`` and ``.manifest`` are taken, other names are left out.
    Raises policy/bad-bundle for links and for anything :func:`read_bundle` refuses.
    """
    files: dict[str, bytes] = {}
    if not directory.is_dir():
        _refuse(f"{directory} is not a directory")
    for item in sorted(directory.rglob("*")):
        path = item.relative_to(directory).as_posix()
        wanted = path == MANIFEST or item.name == "data.json" or item.suffix == ".rego"
        if not wanted or item.name.endswith("_test.rego"):
            continue
        if item.is_symlink() or not item.is_file():
            _refuse("is not a plain file", path)
        files[path] = item.read_bytes()
    archive = pack(files)
    read_bundle(archive)
    return archive
