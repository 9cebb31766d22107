"""Traces to an OpenTelemetry collector, OTLP over HTTP. Loaded only where an endpoint is configured."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from datetime import datetime

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from control_plane.telemetry.history import Span, Trace

log = logging.getLogger("vitrine.telemetry")
_TIMEOUT_S = 10


class OtlpExporter:
    """`endpoint` is the collector's base address, for example http://localhost:4318. A collector that is down costs the trace."""

    def __init__(self, endpoint: str, version: str) -> None:
        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_TIMEOUT_S)
        self._resource = Resource.create({"service.name": "vitrine", "service.version": version})

    async def __call__(self, trace: Trace) -> None:
        spans = [self._readable(trace, span) for span in trace.spans]
        result = await asyncio.to_thread(self._exporter.export, spans)
        if result is not SpanExportResult.SUCCESS:
            log.warning("trace.not_exported", extra={"trace_id": trace.trace_id, "spans": len(spans)})

    def close(self) -> None:
        self._exporter.shutdown()

    def _readable(self, trace: Trace, span: Span) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=_context(trace, span.name, span.start),
            parent=_parent(trace, span),
            resource=self._resource,
            attributes=dict(span.attributes),
            kind=SpanKind.SERVER if not span.parent else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.failed) if span.failed else Status(StatusCode.OK),
            start_time=_nanoseconds(span.start),
            end_time=_nanoseconds(span.end),
        )


def _parent(trace: Trace, span: Span) -> SpanContext | None:
    around = next((s for s in trace.spans if s.name == span.parent), None)
    return _context(trace, around.name, around.start) if around else None


def _context(trace: Trace, name: str, start: datetime) -> SpanContext:
    span_id = hashlib.sha256(f"{trace.trace_id} {name} {start.isoformat()}".encode()).digest()[:8]
    return SpanContext(int(trace.trace_id, 16), int.from_bytes(span_id), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000
