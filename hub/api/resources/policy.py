"""Policy as it is served: versions, bundles, bindings, and the metadata a publisher continues from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from cellward.api import schemas
from cellward.policy.model import BINDINGS_TARGET, KEYRING_ROLE, KEYRING_TARGET, REVOCATIONS_TARGET
from cellward.policy.publisher import MetadataFile, Publication
from hub.api.errors import BAD_REQUEST
from hub.api.resources import convert
from hub.api.routing import Call, RouteTable
from hub.policy.service import PublishResult

routes = RouteTable("policy")

#: Most roots read back; one per rotation.
MAX_ROOTS = 64


@routes.get("/policy", role="viewer", response=schemas.Policy, reach="shared")
async def get_policy(call: Call) -> schemas.Policy:
    """Show what policy is served now."""
    repository = call.services.policy
    result = await repository.status() if await call.services.realm.current() is not None else None
    if result is None:
        return schemas.Policy()
    targets = _targets(await repository.fetch("targets", None))
    bundles = [
        schemas.PolicyBundle(target=path, digest=f"sha256:{_sha256(entry)}", length=convert.number(entry.get("length")))
        for path, entry in sorted(targets.items())
        if path.startswith("bundles/")
    ]
    bindings = await _bindings(call, targets.get(BINDINGS_TARGET, {}))
    timestamp = _signed(await repository.fetch("timestamp", None))
    return schemas.Policy(
        published=convert.published(result),
        bundles=bundles,
        bindings=bindings,
        timestamp_expires=datetime.fromisoformat(timestamp["expires"]) if "expires" in timestamp else None,
    )


@routes.get("/policy/metadata", role="viewer", response=schemas.PolicyMetadata, reach="shared")
async def get_policy_metadata(call: Call) -> schemas.PolicyMetadata:
    """Return the newest set without its bundles, as it was signed."""
    repository = call.services.policy
    realm = await call.services.realm.require()
    roots = [realm.root]
    while len(roots) < MAX_ROOTS:
        following = await repository.fetch("root", len(roots) + 1)
        if following is None:
            break
        roots.append(following)
    targets, keyring = await repository.fetch("targets", None), await repository.fetch(KEYRING_ROLE, None)
    listed = (
        (_targets(targets), (BINDINGS_TARGET,)), (_targets(keyring), (KEYRING_TARGET, REVOCATIONS_TARGET)),
    )  # fmt: skip
    small = [
        await repository.fetch_target(f"sha256:{_sha256(entries[path])}")
        for entries, paths in listed
        for path in paths
        if path in entries
    ]
    return schemas.PolicyMetadata(
        roots=roots,
        targets=targets,
        keyring=keyring,
        snapshot=await repository.fetch("snapshot", None),
        timestamp=await repository.fetch("timestamp", None),
        contents=[data for data in small if data is not None],
    )


@routes.post(
    "/policy/publications",
    role="admin",
    request=schemas.Publication,
    response=schemas.PublicationResult,
    action="policy.publish",
    status=201,
    large=True,
)
async def publish_policy(call: Call) -> schemas.PublicationResult:
    """Take signed policy after verifying it as an agent would; the hub signs the timestamp alone."""
    await call.services.realm.require()
    body = call.body(schemas.Publication)
    metadata = tuple(MetadataFile(file.role, file.version, file.data) for file in body.metadata)
    targets = {target.digest: target.data for target in body.targets}
    if len(targets) != len(body.targets):
        raise BAD_REQUEST("a target is given twice")

    def describe(result: PublishResult) -> None:
        call.subject = f"Policy//{result.snapshot_version}"

    publication = Publication(metadata, targets)
    return convert.published(await call.services.policy.publish(publication, commit=call.committing(describe)))


def _signed(data: bytes | None) -> Mapping[str, str]:
    """Return the signed part of metadata that the repository verified when it was published."""
    document = json.loads(data) if data is not None else {}
    signed = document.get("signed", {})
    return signed if isinstance(signed, dict) else {}


def _targets(data: bytes | None) -> Mapping[str, Mapping[str, object]]:
    found: object = _signed(data).get("targets", {})
    return found if isinstance(found, dict) else {}


def _sha256(entry: Mapping[str, object]) -> str:
    hashes = entry.get("hashes")
    return str(hashes.get("sha256", "")) if isinstance(hashes, Mapping) else ""


async def _bindings(call: Call, entry: Mapping[str, object]) -> list[schemas.PolicyBinding]:
    data = await call.services.policy.fetch_target(f"sha256:{_sha256(entry)}")
    document = json.loads(data) if data is not None else {}
    return [schemas.PolicyBinding.model_validate(binding) for binding in document.get("bindings", ())]
