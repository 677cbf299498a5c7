"""A sampler for the SDK that keeps every failover, whatever the one inside it does.

    TracerProvider(sampler=KeepFailovers(ParentBased(TraceIdRatioBased(0.01))))

A failover is a trace of its own, and rare: the one that is sampled away is the one that is
looked for.  Needs `opentelemetry-sdk` (the extra `otel`).
"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from .names import FAILOVER

__all__ = ["KeepFailovers"]


class KeepFailovers(Sampler):
    """`sampler`, and every `resilient.failover` with its parts."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(  # noqa: PLR0917  # as the SDK calls it
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Kept, if it is one of ours; else what the sampler says."""
        if name == FAILOVER or name.startswith(f"{FAILOVER}."):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, trace_state)
        return self._sampler.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        """The sampler's own, in ours."""
        return f"KeepFailovers{{{self._sampler.get_description()}}}"
