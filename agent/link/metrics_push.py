"""Snapshots of the agent's metrics to the hub, on a stream of their own; the newest one wins, nothing is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio
import structlog

from agent.link.calls import hub_call
from agent.link.channels import ChannelHolder
from agent.metrics.snapshot import Family, PodSeries
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.wire.v1 import telemetry_pb2, telemetry_pb2_grpc

_log = structlog.get_logger()


class MetricsPush:
    """Pushes a snapshot every ``interval`` seconds while there is a channel.

    Args:
        channels: the current channel.
        collect: takes the snapshot; it may refresh gauges first.
        pods: returns what pods of cells said of themselves last.
        timer: the agent's clock.
        interval: seconds between snapshots.
    """

    def __init__(
        self,
        channels: ChannelHolder,
        collect: Callable[[], Sequence[Family]],
        timer: Timer,
        *,
        interval: float,
        pods: Callable[[], Sequence[PodSeries]] = tuple,
    ) -> None:
        self._channels = channels
        self._collect = collect
        self._pods = pods
        self._timer = timer
        self._interval = interval
        self._seq = 0

    async def run(self) -> None:
        """Run until cancelled; without a hub snapshots are simply not taken."""
        while True:
            channel = self._channels.channel
            if channel is not None:
                try:
                    with hub_call("the metrics stream"):
                        await self._stream(channel)
                except CellwardError as error:
                    _log.debug("metrics-push-failed", code=error.code, reason=error.message)
            await self._timer.sleep(self._interval)

    async def _stream(self, channel: grpc.aio.Channel) -> None:
        """Push on one stream until the channel is replaced or fails."""
        changed = self._channels.changed
        call: Any = telemetry_pb2_grpc.TelemetryStub(channel).PushMetrics()
        try:
            while not changed.is_set():
                self._seq += 1
                await call.write(self._batch(self._collect(), self._pods()))
                ack = await call.read()
                if ack is grpc.aio.EOF:
                    return
                await self._timer.sleep(self._interval)
            await call.done_writing()
        finally:
            call.cancel()

    def _batch(self, families: Sequence[Family], pods: Sequence[PodSeries]) -> telemetry_pb2.MetricsBatch:
        batch = telemetry_pb2.MetricsBatch(seq=self._seq, at_unix_ms=int(self._timer.now().timestamp() * 1000))
        for family in families:
            message = batch.families.add(name=family.name, type=family.type, help=family.help)
            for sample in family.samples:
                message.samples.add(name=sample.name, labels=sample.labels, value=sample.value)
        for pod in pods:
            said = batch.pods.add(
                project=pod.project, cell=pod.cell, environment=pod.environment, component=pod.component, pod=pod.pod
            )
            for sample in pod.series:
                said.series.add(name=sample.name, labels=sample.labels, value=sample.value)
        return batch
