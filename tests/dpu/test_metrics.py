"""The Prometheus names: every field of the snapshot has one, and the values come through."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from cairn_dpu.metrics import MICROSECONDS, QUANTILES, ROWS, SnapshotCollector, tenant_label


def fields_of(value: Any, path: str = "") -> set[str]:
    """Every field as ROWS writes it: `store.drives.*.reads`, `operations.*.items`."""
    if path in ("operations", "tenants", "store.drives"):
        value = {"*": next(iter(value.values())) if isinstance(value, dict) else value[0]}
    if not isinstance(value, dict):
        return {path}
    return {field for key, inner in value.items() for field in fields_of(inner, f"{path}.{key}".lstrip("."))}


def registry_of(service: Any) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(service.snapshot))
    return registry


def samples_of(service: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(generate_latest(registry_of(service)).decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_field_has_a_metric(service: Any) -> None:
    assert {row.field for row in ROWS} == fields_of(service.raw)


def test_every_metric_is_exported(service: Any) -> None:
    exported = {(name, frozenset(label for label, _ in labels)) for name, labels in samples_of(service)}
    assert exported == {(row.metric, frozenset(row.labels)) for row in ROWS}


def test_names_follow_the_rules() -> None:
    for row in ROWS:
        assert row.metric.startswith("cairn_")
        assert row.metric.endswith("_total") == (row.type == "counter"), row.metric
        assert row.metric.endswith("_info") == (row.type == "info"), row.metric
        assert row.help.endswith("."), row.metric
        for unit in ("bytes", "seconds"):
            words = row.metric.removesuffix("_total").removesuffix("_count").split("_")
            assert unit not in words[:-1], row.metric


def test_values_come_through(service: Any) -> None:
    samples, raw = samples_of(service), service.raw
    assert samples["cairn_requests_total", frozenset()] == raw["requests"]
    assert samples["cairn_uptime_seconds", frozenset()] == raw["uptime_seconds"]
    assert samples["cairn_store_hits_total", frozenset()] == raw["store"]["hits"]
    assert samples["cairn_build_info", frozenset({("version", "0.1.0")})] == 1
    assert samples["cairn_listener_info", frozenset({("url", raw["listeners"][0])})] == 1
    get = raw["operations"]["get"]
    assert samples["cairn_operation_items_total", frozenset({("operation", "get")})] == get["items"]
    assert (
        samples["cairn_operation_latency_seconds_count", frozenset({("operation", "get")})]
        == get["latency_us"]["count"]
    )
    for name, quantile in QUANTILES.items():
        labels = frozenset({("operation", "get"), ("quantile", quantile)})
        assert samples["cairn_operation_latency_seconds", labels] == pytest.approx(
            get["latency_us"][name] * MICROSECONDS
        )
    drive = raw["store"]["drives"][0]
    assert samples["cairn_drive_written_bytes_total", frozenset({("drive", "bbbb")})] == drive["written_bytes"]
    assert samples["cairn_drive_info", frozenset({("drive", "bbbb"), ("path", "/data/b")})] == 1
    states = {
        state: samples["cairn_drive_state", frozenset({("drive", "bbbb"), ("state", state)})]
        for state in ("serving", "failed")
    }
    assert states == {"serving": 0, "failed": 1}


def test_no_sample_comes_twice(service: Any) -> None:
    lines = [
        line.rpartition(" ")[0]
        for line in generate_latest(registry_of(service)).decode().splitlines()
        if line[0] != "#"
    ]
    assert len(lines) == len(set(lines))


def test_openmetrics_too(service: Any) -> None:
    text = generate_openmetrics(registry_of(service)).decode()
    assert text.endswith("# EOF\n")
    assert "cairn_store_hits_total" in text


def test_registering_takes_no_snapshot(service: Any) -> None:
    service.error = RuntimeError("not yet")
    registry_of(service)


def test_a_name_and_a_number_never_share_a_label() -> None:
    """A dashboard would add the figures of two tenants, or show one's as the other's."""
    tenants = [("900", 7), ("", 900), ("#900", 8), ("##900", 9), ("team-a", 10)]
    labels = [tenant_label(name, number) for name, number in tenants]
    assert len(set(labels)) == len(labels)
    assert labels[:2] == ["900", "#900"]
