"""``python -m bench``: a table on standard error, one JSON object as the last line of standard output."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.numbers import Row, as_json, table
from bench.procfs import machine
from cellward.telemetry.logging import configure_logging


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of the real parts.")
    parser.add_argument("--agents", type=int, default=1000, help="simulated agents (default: 1000)")
    parser.add_argument("--workers", type=int, default=2, help="processes that hold them (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of fan-out and of policy (default: 5)")
    parser.add_argument("--documents", type=int, default=20_000, help="documents kept (default: 20000)")
    parser.add_argument("--records", type=int, default=1_000_000, help="audit records kept (default: 1000000)")
    parser.add_argument("--no-audit", action="store_true", help="agents do not push their audit records")
    parser.add_argument(
        "--only", choices=("fleet", "agents", "documents", "records", "single", "pod"), help="one of the parts"
    )
    parser.add_argument("--sample", type=Path, help="write what the hub spent its time on to FILE.<n>")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Run the benchmarks; exit 0 whatever the numbers are, 1 when a part could not be measured."""
    arguments = _arguments(given)
    # In this process only what goes wrong is worth a line; hub and agents have logs of their own.
    configure_logging("warning")
    result: dict[str, object] = {"at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "machine": machine()}
    rows: list[Row] = []
    parts: dict[str, Callable[[], list[Row]]] = {
        "fleet": lambda: _fleet(arguments, result),
        "agents": lambda: _agents(arguments, result),
        "documents": lambda: _documents(arguments),
        "records": lambda: _records(arguments),
        "single": lambda: _single(result),
        "pod": lambda: _pod(result),
    }
    failed: list[str] = []
    for name, part in parts.items():
        if arguments.only in {None, name}:
            try:
                rows += part()
            except Exception:  # noqa: BLE001 - what another part measured in minutes is still shown
                traceback.print_exc()
                failed.append(name)
    result["failed"] = failed
    result["numbers"] = as_json(rows)
    result["missed"] = [row.key for row in rows if row.met is False]
    print(json.dumps(result))
    return 1 if failed else 0


def _fleet(arguments: argparse.Namespace, result: dict[str, object]) -> list[Row]:
    from bench.fleet.scenario import Plan, run  # noqa: PLC0415 - the other part needs none of it

    sample = arguments.sample.resolve() if arguments.sample is not None else None
    plan = Plan(arguments.agents, arguments.workers, arguments.rounds, audit=not arguments.no_audit, sample=sample)
    rows, extra = asyncio.run(run(plan))
    title = f"{plan.agents} light agents, one hub, {machine()}, shared by all of them"
    sys.stderr.write(f"\n{table(title, rows)}\n\n")
    result["fleet"] = {"agents": plan.agents, "workers": plan.workers, "audit": plan.audit, **extra}
    return rows


def _agents(arguments: argparse.Namespace, result: dict[str, object]) -> list[Row]:
    """Measure what an agent's own code costs, without Kubernetes: few of them, once."""
    from bench.fleet.costs import agent_rows  # noqa: PLC0415 - the other part needs none of it
    from bench.fleet.scenario import Plan, run  # noqa: PLC0415 - the other part needs none of it

    plan = Plan(min(arguments.agents, 100), arguments.workers, 1, audit=not arguments.no_audit, light=False)
    _, extra = asyncio.run(run(plan))
    rows = agent_rows(plan.agents, extra["costs"])
    sys.stderr.write(f"\n{table(f'the own code of {plan.agents} agents, without Kubernetes', rows)}\n\n")
    result["agents"] = {"agents": plan.agents, **extra}
    return rows


def _documents(arguments: argparse.Namespace) -> list[Row]:
    from bench.documents import Size, run  # noqa: PLC0415 - the other parts need none of it

    rows = run(Size(arguments.documents, arguments.documents // 10), sample=arguments.sample)
    sys.stderr.write(f"\n{table(f'one hub and its history, {machine()}', rows)}\n\n")
    return rows


def _records(arguments: argparse.Namespace) -> list[Row]:
    from bench.records import run  # noqa: PLC0415 - the other parts need none of it

    rows = run(arguments.records, sample=arguments.sample)
    sys.stderr.write(f"\n{table(f'one hub and its audit log, {machine()}', rows)}\n\n")
    return rows


def _single(result: dict[str, object]) -> list[Row]:
    from bench.single.scenario import run  # noqa: PLC0415 - the other part needs none of it

    rows, extra = run()
    sys.stderr.write(f"\n{table(f'one real agent on a real control plane, {machine()}', rows)}\n\n")
    result["single"] = extra
    return rows


def _pod(result: dict[str, object]) -> list[Row]:
    from bench.pod import run, run_in_laboratory  # noqa: PLC0415 - the other parts need none of it
    from tools.stack.node import lab  # noqa: PLC0415 - as above

    if not lab.inside():
        # Its rows were shown there.
        result["pod"] = run_in_laboratory()["numbers"]
        return []
    rows = run()
    sys.stderr.write(f"\n{table(f'one agent in a pod of a real node, {machine()}', rows)}\n\n")
    return rows


if __name__ == "__main__":
    sys.exit(main())
