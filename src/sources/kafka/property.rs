//! librdkafka's properties: which we refuse and why, which we set, and whether one exists.

use crate::sources::kafka::config::KafkaConfig;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use std::collections::BTreeMap;

const OURS: &str = "positions come from the record, and a second keeper of them could only disagree";
const NO_GROUP: &str = "we assign partitions ourselves and join no group, so it has no effect";

/// (property, why, what to do instead).
pub const REFUSED: &[(&str, &str, &str)] = &[
    ("bootstrap.servers", "it would hide \"brokers\"", "Use the key \"brokers\"."),
    ("metadata.broker.list", "it would hide \"brokers\"", "Use the key \"brokers\"."),
    ("group.id", "it would hide \"group\"", "Use the key \"group\"."),
    ("enable.auto.commit", OURS, "Set \"group\" to have applied positions committed for lag tools."),
    ("auto.commit.enable", OURS, "Set \"group\" to have applied positions committed for lag tools."),
    ("auto.commit.interval.ms", OURS, "Positions are committed after each checkpoint."),
    ("enable.auto.offset.store", OURS, "Remove it."),
    ("offset.store.method", OURS, "Remove it."),
    ("offset.store.path", OURS, "Remove it."),
    (
        "auto.offset.reset",
        "a purged position would be skipped in silence",
        "Use the key \"start\"; it counts for topics that are new.",
    ),
    (
        "isolation.level",
        "messages of aborted transactions would reach the tables",
        "We always read committed messages only; remove it.",
    ),
    ("enable.partition.eof", "the end of a partition would not be seen", "It is always on; remove it."),
    ("queued.max.messages.kbytes", "queues are sized from the memory budget", "Set [limits] memory."),
    ("queued.min.messages", "queues are sized from the memory budget", "Set [limits] memory."),
    ("fetch.max.bytes", "queues are sized from the memory budget", "Set [limits] memory."),
    ("fetch.queue.backoff.ms", "it is tuned to the size of our queues", "Remove it."),
    ("statistics.interval.ms", "the lag is taken from the statistics", "Remove it."),
    ("group.instance.id", NO_GROUP, "Remove it."),
    ("group.protocol", NO_GROUP, "Remove it."),
    ("group.protocol.type", NO_GROUP, "Remove it."),
    ("group.remote.assignor", NO_GROUP, "Remove it."),
    ("partition.assignment.strategy", NO_GROUP, "Remove it."),
    ("session.timeout.ms", NO_GROUP, "Remove it."),
    ("heartbeat.interval.ms", NO_GROUP, "Remove it."),
    ("max.poll.interval.ms", NO_GROUP, "Remove it."),
    ("plugin.library.paths", "it loads foreign code into the process", "Remove it."),
    ("test.mock.num.brokers", "it replaces the brokers by pretended ones", "Remove it."),
];

/// What people set, for "did you mean".
pub const COMMON: &[&str] = &[
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.key.location",
    "ssl.key.pem",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification",
    "client.id",
    "client.rack",
    "client.dns.lookup",
    "broker.address.family",
    "broker.address.ttl",
    "debug",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "fetch.message.max.bytes",
    "max.partition.fetch.bytes",
    "message.max.bytes",
    "receive.message.max.bytes",
    "socket.keepalive.enable",
    "socket.timeout.ms",
    "socket.connection.setup.timeout.ms",
    "connections.max.idle.ms",
    "reconnect.backoff.ms",
    "reconnect.backoff.max.ms",
    "topic.metadata.refresh.interval.ms",
    "metadata.max.age.ms",
    "check.crcs",
    "allow.auto.create.topics",
];

pub fn refused(key: &str) -> Option<(&'static str, &'static str)> {
    REFUSED.iter().find(|(name, _, _)| *name == key).map(|(_, why, hint)| (*why, *hint))
}

/// Asks the library itself, so that no list of ours can fall behind it. A value that does not fit is another matter.
pub fn exists(key: &str) -> bool {
    let unknown = RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN;
    let tried = ClientConfig::new().set(key, "1").create_native_config();
    !matches!(tried, Err(KafkaError::ClientConfig(why, ..)) if why == unknown)
}

/// Everything the client is created with. `queue_bytes`: what the queue between the library's threads and ours may hold.
pub fn client_config(config: &KafkaConfig, properties: &BTreeMap<String, String>, queue_bytes: u64) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("client.id", "pipe");
    client.set("check.crcs", "true");
    for (key, value) in properties {
        client.set(key, value);
    }
    client.set("bootstrap.servers", config.brokers.join(","));
    // The library wants a group to assign partitions at all; without "group" nothing is ever committed to this one.
    client.set("group.id", config.group.as_deref().unwrap_or("pipe"));
    client.set("enable.auto.commit", "false");
    client.set("enable.auto.offset.store", "false");
    client.set("auto.offset.reset", "error");
    client.set("isolation.level", "read_committed");
    client.set("enable.partition.eof", "true");
    // Between 1 MiB (below it, fetches are slower than the network) and 64 MiB (above it, nothing is gained).
    let queue_bytes = queue_bytes.clamp(1 << 20, 64 << 20);
    client.set("queued.max.messages.kbytes", (queue_bytes / 1024).to_string());
    // One response may overshoot the queue, so it is bounded by the same number.
    let message_bytes_max = properties.get("message.max.bytes").and_then(|m| m.parse().ok()).unwrap_or(1_000_000);
    client.set("fetch.max.bytes", queue_bytes.max(message_bytes_max).to_string());
    // With small queues the default of a second would be a pause of a second whenever they are full.
    client.set("fetch.queue.backoff.ms", "10");
    client.set("statistics.interval.ms", "5000");
    client
}
