"""Options and arguments that several commands take: each is said once, so that they read and work alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.home import default_home
from cli.output import Format

# Of nearly every command.
HomeOption = Annotated[
    Path, typer.Option("--home", help="Directory of keys and trust.yaml.", envvar="CELLWARD_HOME", show_default=False)
]
OutputOption = Annotated[Format, typer.Option("--output", "-o", help="Format of what is printed.")]
PassphraseOption = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File with the passphrase of the local keys.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check and show everything, change nothing.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait until all targeted clusters have done it.")]
TimeoutOption = Annotated[float, typer.Option(min=1, help="Seconds --wait waits.")]
DEFAULT_TIMEOUT = 300.0
DEFAULT_HOME = default_home()

# About cells and clusters.
CellArgument = Annotated[str, typer.Argument(help="PROJECT/CELL")]
EnvironmentOption = Annotated[
    list[str] | None, typer.Option("--environment", "-e", help="Only in this environment; may be repeated.")
]
ClusterOption = Annotated[list[str] | None, typer.Option("--cluster", help="Only on this cluster; may be repeated.")]
ClusterArgument = Annotated[str, typer.Argument(help="Name of the cluster.")]
#: Of what a command signs.
ValidityOption = Annotated[int, typer.Option(min=1, max=3650, help="How long agents may accept it for the first time.")]
VALID_DAYS = 30

# About what security signs.
#: Names the file where it is not beside trust.yaml.
RECORD_VARIABLE = "CELLWARD_POLICY_RECORD"
RecordOption = Annotated[
    Path | None,
    typer.Option(
        "--record",
        help="The publishers' record, kept in security's repository; default: policy-record.json beside trust.yaml.",
        envvar=RECORD_VARIABLE,
    ),
]
ProposeOption = Annotated[
    Path | None,
    typer.Option(
        "--propose", help="Write a proposal for others to sign (`cellward trust sign`) instead of publishing."
    ),
]
SignedOption = Annotated[
    bool,
    typer.Option(
        "--signed", help="Put it into the signed policy set, which no hub can lift; needs keyring and publisher keys."
    ),
]
ProposalArgument = Annotated[Path, typer.Argument(help="The proposal, as a file.")]

# About the audit log.
TreeHeadKeyOption = Annotated[
    str, typer.Option(help="Tree-head key you trust, base64 or PEM file; default: the one in trust.yaml.")
]
SegmentOption = Annotated[
    list[Path] | None, typer.Option(help="Segment exported and pruned before; may be repeated, oldest first.")
]
