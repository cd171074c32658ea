"""Prometheus metrics: counters and histograms, never ratios.

One registry for each application, so that several can live in one process. Gauges of the store are read when scraped.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from holdfast.serving.engine.document_cache import DocumentCache
from holdfast.serving.engine.protocol import RetrievalEngine
from holdfast.serving.limits import Gate

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """What one server counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "holdfast_requests", "HTTP requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "holdfast_request_duration_seconds",
            "Time from the first byte of a request to the last of its response.",
            ["method", "route"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.first_byte_seconds = Histogram(
            "holdfast_response_start_seconds",
            "Time until the response began.",
            ["method", "route"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.running = Gauge("holdfast_requests_in_progress", "HTTP requests being served.", registry=self.registry)
        self.rejected = Counter(
            "holdfast_rejected_requests",
            "Requests refused before any work, by reason: busy, unauthenticated, too_large.",
            ["reason"],
            registry=self.registry,
        )
        self.disconnected = Counter(
            "holdfast_disconnected_requests", "Requests cancelled because the client left.", registry=self.registry
        )
        self.search_seconds = Histogram(
            "holdfast_search_duration_seconds",
            "Time to embed the queries and search the vector stores.",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.tokens = Counter(
            "holdfast_tokens",
            "Tokens by model and kind: prompt, completion.",
            ["model", "kind"],
            registry=self.registry,
        )
        self.ingestion_queue = Gauge(
            "holdfast_ingestion_queue_files", "Files waiting for or in ingestion.", registry=self.registry
        )
        self.passages = Gauge("holdfast_passages", "Passages stored.", registry=self.registry)

    def watch(self, gate: Gate) -> None:
        """Show the running and waiting work of `gate`."""
        name = gate.name
        running = Gauge(f"holdfast_{name}_running", f"{name.capitalize()} under way.", registry=self.registry)
        running.set_function(lambda: gate.num_running)
        waiting = Gauge(f"holdfast_{name}_waiting", f"{name.capitalize()} in line.", registry=self.registry)
        waiting.set_function(lambda: gate.num_waiting)

    def watch_documents(self, cache: DocumentCache) -> None:
        """Show what the document cache holds and how it did."""
        self.registry.register(_DocumentCacheCollector(cache))

    def watch_retrieval(self, engine: RetrievalEngine) -> None:
        """Show what KV retrieval does."""
        self.registry.register(_RetrievalCollector(engine))

    def count_tokens(self, model: str, *, prompt: int, completion: int = 0) -> None:
        """Add one request's tokens."""
        self.tokens.labels(model, "prompt").inc(prompt)
        self.tokens.labels(model, "completion").inc(completion)

    def render(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry)


class _DocumentCacheCollector(Collector):
    """Reads the document cache when it is scraped."""

    def __init__(self, cache: DocumentCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        stats, files = self._cache.stats, self._cache.files
        reads = CounterMetricFamily(
            "holdfast_document_cache_reads",
            "Documents read in set mode: found in memory or disk, or missed as new, evicted or damaged.",
            labels=["found"],
        )
        for found, number in stats.found.items():
            reads.add_metric([found], number)
        size = GaugeMetricFamily("holdfast_document_cache_bytes", "Bytes held, by tier.", labels=["tier"])
        evictions = CounterMetricFamily(
            "holdfast_document_cache_evictions", "Documents that made room, by tier.", labels=["tier"]
        )
        size.add_metric(["memory"], stats.num_bytes)
        evictions.add_metric(["memory"], stats.num_evictions)
        if files is not None:
            size.add_metric(["disk"], files.num_bytes)
            evictions.add_metric(["disk"], files.num_evictions)
            yield CounterMetricFamily(
                "holdfast_document_cache_failed_writes",
                "Documents that the disk refused.",
                value=files.num_failed_writes,
            )
        yield from (reads, size, evictions)


class _RetrievalCollector(Collector):
    """Asks the engine when it is scraped. Divided by the decisions, sums are the means of finished requests."""

    def __init__(self, engine: RetrievalEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        totals = self._engine.kv_totals()
        for name, text, value in (
            ("decisions", "KV heads times layers times steps decoded with retrieval.", totals.num_decisions),
            ("retrievals", "Decisions in which keys were chosen anew.", totals.num_retrievals),
            ("sampled_mass", "Sum over decisions: attention with keys known by a sample only.", totals.sampled_mass),
            ("error", "Sum over decisions: relative standard error of attention's weights.", totals.error),
        ):
            yield CounterMetricFamily(f"holdfast_kv_{name}", text, value=value)
        size = GaugeMetricFamily("holdfast_kv_bytes", "Bytes held for retrieval by kind.", labels=["kind"])
        size.add_metric(["index"], totals.index_bytes)
        size.add_metric(["memory"], totals.memory_bytes)
        size.add_metric(["disk"], totals.disk_bytes)
        yield size
