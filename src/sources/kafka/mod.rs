//! Kafka topics: partitions assigned by us, positions from the record, committed messages only.
//!
//! Partition = "topic/3", position = the next offset to read; the word "offset" stays in this folder. There is no consumer
//! group to join: the record says who reads (a second process is fenced by it), so no rebalance can take a partition away
//! and no slow pipeline can be thrown out for polling late. A group, if named, only shows lag tools where we are.
//!
//! One client and one thread per topic. One client for all would save connections, but its event for the end of a
//! partition names only the partition's number.

mod begin; // where reading a partition begins: pure
pub mod config;
mod health; // status, lag, the library's log
mod pending; // messages of a partition on their way into a handover
mod property; // librdkafka's properties: refused, set, existing
mod topic; // reads one topic
mod topic_id; // is it still the topic that was read?

use crate::config::section::Section;
use crate::sources::kafka::config::KafkaConfig;
use crate::sources::kafka::health::{Events, Health};
use crate::sources::kafka::topic::TopicReader;
use crate::sources::{Kind, OpenContext, Source, SourceContext};
use crate::types::error::{Error, Result};
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

pub const KIND: Kind = Kind {
    connector: config::CONNECTOR,
    replayable: true,
    open: |section, context| Ok(Box::new(KafkaSource::open(section, &context)?)),
};

/// No Debug: properties may be secrets (I12).
pub struct KafkaSource {
    name: Arc<str>,
    config: KafkaConfig,
    client: ClientConfig,
    /// How often we look for new partitions.
    look_interval: Duration,
    /// What was purged before it was read is given up at the start.
    skip_purged: bool,
    once_patience: Duration,
}

impl KafkaSource {
    fn open(section: &Section, context: &OpenContext) -> Result<Self> {
        let config = config::validate(section).map_err(Error::Config)?;
        let properties = section.reveal_settings("properties", &config.properties).map_err(Error::Config)?;
        check_values(section, &properties)?;
        // Each topic has a client, and each client a queue.
        let queue_bytes = context.queue_bytes / config.topics.len().max(1) as u64;
        let client = property::client_config(&config, &properties, queue_bytes);
        // Half a minute; the library's own refresh of five would leave a new partition unread for as long.
        let refresh = properties.get("topic.metadata.refresh.interval.ms").and_then(|ms| ms.parse().ok());
        let look_interval = Duration::from_millis(refresh.unwrap_or(30_000));
        Ok(KafkaSource {
            name: section.name.as_str().into(),
            config,
            client,
            look_interval,
            skip_purged: context.skip_purged,
            once_patience: topic::TROUBLE_PATIENCE,
        })
    }
}

/// Asks the library about each value. Its own message would repeat the value, which may be a secret (I12).
fn check_values(section: &Section, properties: &BTreeMap<String, String>) -> Result<()> {
    let mut faults = Vec::new();
    for (key, value) in properties {
        if ClientConfig::new().set(key, value).create_native_config().is_err() {
            let message = format!("property \"{key}\" has a value that librdkafka does not accept");
            let mut fault = section.fault_in(&["properties", key], message);
            fault.hint = Some("See librdkafka's CONFIGURATION.md for what it may be.".into());
            faults.push(fault);
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Error::Config(faults)) }
}

#[async_trait::async_trait]
impl Source for KafkaSource {
    async fn run(self: Box<Self>, context: SourceContext) -> Result<()> {
        let topics: Vec<Arc<str>> = self.config.topics.iter().map(|t| t.as_str().into()).collect();
        let health = Arc::new(Health::new(self.name.clone(), context.status.clone(), &topics));
        // The guard stops the threads when this future is dropped, and when one of them has failed.
        let stop = context.stop.child_token();
        let _stops_readers = stop.clone().drop_guard();
        let mut readers = JoinSet::new();
        for topic in topics {
            let events = Events::new(self.name.clone(), topic.clone(), health.clone());
            let consumer: BaseConsumer<Events> = self
                .client
                .create_with_context(events)
                .map_err(|e| Error::Failed(format!("cannot make a Kafka client: {e}")))?;
            let reader = TopicReader::new(topic::Parts {
                source: self.name.clone(),
                topic,
                consumer: Arc::new(consumer),
                start_at: self.config.start,
                skip_purged: self.skip_purged,
                commits: self.config.group.is_some(),
                look_interval: self.look_interval,
                once_patience: self.once_patience,
                context: context.clone(),
                stop: stop.clone(),
                runtime: Handle::current(),
                health: health.clone(),
            });
            readers.spawn_blocking(move || reader.run());
        }
        let mut outcome = Ok(());
        while let Some(ended) = readers.join_next().await {
            let ended = match ended {
                Ok(ended) => ended,
                // Blocking tasks are never aborted, so it has panicked.
                Err(join) => std::panic::resume_unwind(join.into_panic()),
            };
            if outcome.is_ok() && ended.is_err() {
                stop.cancel();
                outcome = ended;
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
