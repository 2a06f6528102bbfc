"""``cellward delete``: ends a cell by a signed tombstone."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from hub.cli.cells import split
from hub.cli.context import DEFAULT_HOME, HomeOption, PassphraseOption, command, local, now
from hub.cli.output import say
from hub.cli.signing import known_documents, next_sequence, remember_sequences, sign, upload


@command
def delete(
    cell: Annotated[str, typer.Argument(help="PROJECT/CELL")],
    environment: Annotated[list[str], typer.Option("--environment", "-e", help="Where it ends; may be repeated.")],
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Also delete persistent data and the namespace.")
    ] = False,
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="How long agents may newly accept it.")] = 365,
    home: HomeOption = DEFAULT_HOME,
    passphrase_file: PassphraseOption = None,
) -> None:
    """End a cell by a signed tombstone; data and namespace stay unless said otherwise."""
    from cellward.documents.model import Tombstone
    from hub.cli.keys import load_key

    place = local(home)
    trust = place.home.trust()
    project, name = split(cell)
    client = place.trusted_client(trust)
    known = known_documents(client, place.home, trust)
    author = load_key(place.home, "author", passphrase_file)
    issued = now()
    sequence = next_sequence(place.home, known, (project, name))
    envelope = sign(
        Tombstone(
            realm=trust.realm,
            project=project,
            cell=name,
            environments=tuple(sorted(environment)),
            sequence=sequence,
            delete_data=delete_data,
            issued_at=issued,
            not_after=issued + timedelta(days=valid_days),
        ),
        author,
    )
    result = upload(client, [envelope], dry_run=False)
    remember_sequences(place.home, {(project, name): sequence})
    print(envelope.digest)
    say(f"ended on: {', '.join(result.clusters) or 'no cluster has it'}")
