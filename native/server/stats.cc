// The snapshot that `cairn stats`, the admin plane and Prometheus read. Its fields: docs/metrics.md.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/streaming_copy.h"
#include "server/reactor.h"

namespace cairn {

namespace {

constexpr std::array<std::string_view, kOperations.size()> kNames = {
    "put", "get", "exists", "match", "touch", "delete", "prefetch", "stats", "lease", "release", "watch"};

static_assert(kOperations.front() == FrameType::put && kNames.front() == "put", "operations have others' names");
static_assert(kOperations[5] == FrameType::remove && kNames[5] == "delete", "operations have others' names");
static_assert(kOperations.back() == FrameType::watch && kNames.back() == "watch", "operations have others' names");

std::string hex(std::span<const uint8_t> bytes) {
  std::string text;
  for (const uint8_t byte : bytes) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", byte);
    text += digits;
  }
  return text;
}

// What a drive is, whoever uses it.
void write_drive_facts(JsonWriter& json, const DriveStats& drive) {
  json.text("path", drive.path).text("uuid", drive.uuid).text("state", drive.state);
  json.boolean("fixed_buffers", drive.fixed_buffers);
  json.text("reason", drive.reason).boolean("distrusted", drive.distrusted).real("loaded_share", drive.loaded_share);
  json.number("bytes", drive.bytes).number("segment_bytes", drive.segment_bytes).number("segments", drive.segments);
  json.number("oldest_sequence", drive.oldest_sequence).number("read_errors", drive.read_errors);
  json.number("write_errors", drive.write_errors).number("checksum_errors", drive.checksum_errors);
}

void write_drive(JsonWriter& json, const DriveStats& drive) {
  json.begin_object();
  write_drive_facts(json, drive);
  json.number("segments_free", drive.segments_free).number("segments_sealed", drive.segments_sealed);
  json.number("blocks", drive.blocks).number("payload_bytes", drive.payload_bytes);
  json.number("read_bytes", drive.read_bytes).number("written_bytes", drive.written_bytes);
  json.number("put_bytes", drive.put_bytes);
  json.number("reads", drive.reads).number("writes", drive.writes).number("flushes", drive.flushes);
  json.number("evicted_segments", drive.evicted_segments);
  json.number("evicted_blocks", drive.evicted_blocks).number("moved_blocks", drive.moved_blocks);
  json.number("moved_bytes", drive.moved_bytes).number("discarded_bytes", drive.discarded_bytes);
  json.number("scrubbed_bytes", drive.scrubbed_bytes).number("scrub_passes", drive.scrub_passes);
  json.number("scrub_errors", drive.scrub_errors).number("scrub_started_unix_ms", drive.scrub_started_unix_ms);
  json.real("scrub_share", drive.scrub_share).number("lifetime_written_bytes", drive.lifetime_written_bytes);
  json.number("lifetime_put_bytes", drive.lifetime_put_bytes).end_object();
}

void write_counters(JsonWriter& json, const TenantCounters& did) {
  json.number("puts", did.puts).number("put_bytes", did.put_bytes).number("gets", did.gets);
  json.number("hits", did.hits).number("get_bytes", did.get_bytes).number("deletes", did.deletes);
  json.number("evicted_blocks", did.evicted_blocks).number("evicted_bytes", did.evicted_bytes);
  json.number("expired_blocks", did.expired_blocks).number("refused_quota", did.refused_quota);
  json.number("refused_admission", did.refused_admission);
}

void write_tenant(JsonWriter& json, const TenantStats& tenant, const Share& share, const std::string& name) {
  json.begin_object().number("number", tenant.number).text("name", name);
  json.number("quota_bytes", tenant.quota_bytes).number("weight", share.weight);
  json.number("window_bytes", share.window_bytes).number("sessions", share.sessions);
  json.number("in_flight_bytes", share.in_flight_bytes).number("started_bytes", share.started_bytes);
  json.number("blocks", tenant.blocks).number("payload_bytes", tenant.payload_bytes);
  json.number("cache_bytes", tenant.cache_bytes).number("leased_bytes", tenant.leased_bytes);
  json.number("held_bytes", tenant.held_bytes);
  write_counters(json, tenant.did);
  json.end_object();
}

void write_store(JsonWriter& json, const StoreStats& stats) {
  json.begin_object("store").number("blocks", stats.blocks).number("payload_bytes", stats.payload_bytes);
  json.number("puts", stats.puts).number("put_exists", stats.put_exists).number("put_bytes", stats.put_bytes);
  json.number("gets", stats.gets).number("hits", stats.hits).number("hits_memory", stats.hits_memory);
  json.number("misses", stats.misses).number("get_bytes", stats.get_bytes).number("deletes", stats.deletes);
  json.number("corrupt", stats.corrupt).number("io_errors", stats.io_errors).number("no_space", stats.no_space);
  json.number("cache_bytes", stats.cache_bytes).number("cache_blocks", stats.cache_blocks);
  json.number("slab_bytes", stats.slab_bytes).number("slab_free_bytes", stats.slab_free_bytes);
  json.number("index_bytes", stats.index_bytes).number("recovered_blocks", stats.recovered_blocks);
  json.number("recovered_segments", stats.recovered_segments).number("scanned_segments", stats.scanned_segments);
  json.real("recovery_seconds", stats.recovery_seconds).number("groups", stats.groups).number("leases", stats.leases);
  json.number("events", stats.events).number("index_entries", stats.index_entries);
  json.number("refused_quota", stats.refused_quota).number("refused_admission", stats.refused_admission);
  json.text("members_state", stats.members_state).text("members_reason", stats.members_reason);
  json.begin_array("drives");
  for (const DriveStats& drive : stats.drives) write_drive(json, drive);
  json.end_array().end_object();
}

void write_operation(JsonWriter& json, std::string_view name, const OperationCounters& operation) {
  const Histogram& latency = operation.latency_us;
  CAIRN_CHECK(latency.count() == operation.requests, "a request was counted without its latency, or the reverse");
  json.begin_object(name).number("requests", operation.requests).number("items", operation.items);
  json.begin_object("latency_us").number("count", latency.count()).number("p50", latency.quantile(0.5));
  json.number("p90", latency.quantile(0.9)).number("p99", latency.quantile(0.99)).number("max", latency.max());
  json.end_object().end_object();
}

}  // namespace

// What the store knows of every tenant together with what the reactor does; a tenant may be known to one of them only.
void Reactor::write_tenants(JsonWriter& json, const StoreStats& store) const {
  std::map<uint32_t, TenantStats> rows;
  for (const TenantStats& tenant : store.tenants) rows[tenant.number] = tenant;
  for (const auto& [number, share] : shares_.all()) rows[number].number = number;
  json.begin_array("tenants");
  for (const auto& [number, row] : rows) {
    CAIRN_CHECK(row.number == number, "a tenant's figures lie under another's number");
    const auto share = shares_.all().find(number);
    Share unseen;
    unseen.weight = row.weight;
    write_tenant(json, row, share == shares_.all().end() ? unseen : share->second, names_.name_of(number));
  }
  json.end_array();
  json.begin_object("tenants_forgotten").number("names", counters_.names_expired);
  write_counters(json, store.forgotten);
  json.end_object();
}

std::string Reactor::stats_json() const {
  uint64_t in_flight = removes_.size() + watches_.size();
  for (const auto& [id, session] : sessions_) in_flight += session->requests.size();
  JsonWriter json;
  json.begin_object().text("version", CAIRN_VERSION).text("server_id", hex(server_id_));
  json.real("uptime_seconds", static_cast<double>(clock_.now_ns() - started_ns_) / 1e9).boolean("draining", draining_);
  json.number("sessions", sessions_.size()).number("sessions_opened", counters_.sessions_opened);
  json.number("sessions_refused", counters_.sessions_refused).number("protocol_errors", counters_.protocol_errors);
  json.number("requests", counters_.requests).number("requests_in_flight", in_flight);
  json.number("requests_refused", counters_.requests_refused);
  json.number("timeouts", counters_.timeouts).number("cancelled", counters_.cancelled);
  json.number("links_paused", counters_.links_paused).number("links_deferred", work_.deferred());
  json.number("drives_absent", drives_absent_).boolean("loaded", store_.loaded());
  json.number("received_bytes", counters_.received_bytes).number("sent_bytes", counters_.sent_bytes);
  json.number("copied_bytes", copied_bytes());
  json.begin_array("listeners");
  for (const auto& [number, listener] : listeners_) json.text({}, listener->url());
  json.end_array().begin_object("operations");
  for (size_t i = 0; i < kNames.size(); ++i) write_operation(json, kNames[i], counters_.operations[i]);
  json.end_object();
  const StoreStats store = store_.stats();
  write_tenants(json, store);
  write_store(json, store);
  return json.end_object().take();
}

// The same for a client, as far as it is its own tenant's: nothing that another does changes a number in here, but for
// what the service and its drives are.
std::string Reactor::tenant_stats_json(uint32_t tenant) const {
  const StoreStats store = store_.stats_of(tenant);
  CAIRN_CHECK(store.tenants.size() == 1, "a tenant is told of another");
  const TenantStats& row = store.tenants[0];
  const Share& share = shares_.all().at(tenant);
  uint64_t in_flight = share.deletes;
  for (const auto& [id, session] : sessions_) {
    if (session->tenant_id == tenant) in_flight += session->requests.size() + watches_.of_session(*session);
  }
  JsonWriter json;
  json.begin_object().text("version", CAIRN_VERSION).text("server_id", hex(server_id_));
  json.real("uptime_seconds", static_cast<double>(clock_.now_ns() - started_ns_) / 1e9).boolean("draining", draining_);
  json.number("sessions", share.sessions).number("sessions_opened", share.did.sessions_opened);
  json.number("protocol_errors", share.did.protocol_errors).number("requests", share.did.requests);
  json.number("requests_in_flight", in_flight).number("timeouts", share.did.timeouts);
  json.number("cancelled", share.did.cancelled).number("drives_absent", drives_absent_);
  json.boolean("loaded", store_.loaded()).number("received_bytes", share.did.received_bytes);
  json.number("sent_bytes", share.did.sent_bytes).begin_array("listeners");
  for (const auto& [number, listener] : listeners_) json.text({}, listener->url());
  json.end_array().begin_object("operations");
  for (size_t i = 0; i < kNames.size(); ++i) {
    const TenantActivity::Operation& did = share.did.operations[i];
    json.begin_object(kNames[i]).number("requests", did.requests).number("items", did.items);
    json.begin_object("latency_us").number("count", did.requests).number("max", did.max_us);
    json.end_object().end_object();
  }
  json.end_object().begin_array("tenants");
  write_tenant(json, row, share, names_.name_of(tenant));
  json.end_array().begin_object("store").number("blocks", row.blocks).number("payload_bytes", row.payload_bytes);
  json.number("puts", row.did.puts).number("put_exists", row.did.put_exists).number("put_bytes", row.did.put_bytes);
  json.number("gets", row.did.gets).number("hits", row.did.hits).number("hits_memory", row.did.hits_memory);
  json.number("misses", row.did.gets - std::min(row.did.gets, row.did.hits)).number("get_bytes", row.did.get_bytes);
  json.number("deletes", row.did.deletes).number("cache_bytes", row.cache_bytes);
  json.number("slab_bytes", store.slab_bytes).number("recovered_blocks", store.recovered_blocks);
  json.number("recovered_segments", store.recovered_segments).number("scanned_segments", store.scanned_segments);
  json.real("recovery_seconds", store.recovery_seconds).number("refused_quota", row.did.refused_quota);
  json.number("refused_admission", row.did.refused_admission).begin_array("drives");
  for (const DriveStats& drive : store.drives) {
    json.begin_object();
    write_drive_facts(json, drive);
    json.end_object();
  }
  return json.end_array().end_object().end_object().take();
}

// Made anew a few times in a tenth of a second; who asks more often is told what it was told before.
const std::string& Reactor::stats_text(LinkState& state) {
  constexpr uint64_t kWhileNs = 100'000'000;
  constexpr uint32_t kMadeMost = 8;
  constexpr int64_t kMadeNs = 60'000;
  constexpr size_t kTextsMost = 64;
  const uint32_t tenant = state.session->tenant_id;
  const uint64_t now = clock_.now_ns();
  if (texts_.size() >= kTextsMost && !texts_.contains(tenant)) texts_.clear();
  Text& known = texts_[tenant];
  if (known.made == 0 || now - known.since_ns >= kWhileNs) known = {{}, now, 0};
  if (known.made == kMadeMost) return known.text;
  ++known.made;
  work_.charge(state, kMadeNs);
  known.text = tenant_stats_json(tenant);
  return known.text;
}

}  // namespace cairn
