//! What the topics of one source tell about themselves, put together for the source's status, and the library's log.

use crate::sources::SourceStatus;
use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// The source is connected when all its topics are; its lag is the sum of theirs.
pub struct Health {
    source: Arc<str>,
    status: Arc<SourceStatus>,
    /// A std mutex: nothing awaits while it is held, and it is held for a few instructions.
    topics: Mutex<BTreeMap<Arc<str>, TopicHealth>>,
}

#[derive(Clone, Default)]
struct TopicHealth {
    connected: bool,
    ever_connected: bool,
    trouble: String,
    /// -1: not known yet.
    lag_messages: i64,
}

impl Health {
    pub fn new(source: Arc<str>, status: Arc<SourceStatus>, topics: &[Arc<str>]) -> Self {
        let unknown = TopicHealth { lag_messages: -1, ..Default::default() };
        let topics = topics.iter().map(|t| (t.clone(), unknown.clone())).collect();
        status.lag_messages.store(-1, Ordering::Relaxed);
        Health { source, status, topics: Mutex::new(topics) }
    }

    pub fn up(&self, topic: &Arc<str>) {
        self.change(topic, |t| {
            if !t.connected {
                tracing::info!(source = %self.source, topic = %topic, "topic connected");
                if t.ever_connected {
                    self.status.reconnects.fetch_add(1, Ordering::Relaxed);
                }
            }
            (t.connected, t.ever_connected) = (true, true);
            t.trouble.clear();
        });
    }

    pub fn down(&self, topic: &Arc<str>, why: &str) {
        self.change(topic, |t| {
            // Once per trouble, not once per retry.
            if t.connected || t.trouble != why {
                tracing::warn!(source = %self.source, topic = %topic, trouble = why, "topic not connected, retrying");
            }
            t.connected = false;
            t.trouble = why.to_string();
        });
    }

    fn lag(&self, topic: &Arc<str>, messages: i64) {
        self.change(topic, |t| t.lag_messages = messages);
    }

    fn change(&self, topic: &Arc<str>, change: impl FnOnce(&mut TopicHealth)) {
        let mut topics = self.topics.lock().expect("no holder panics");
        change(topics.get_mut(topic).expect("the topics are known from the start"));
        match topics.iter().find(|(_, t)| !t.connected) {
            None => self.status.up(),
            Some((_, t)) if t.trouble.is_empty() => self.status.connected.store(false, Ordering::Relaxed),
            Some((topic, t)) => self.status.down(format!("topic \"{topic}\": {}", t.trouble)),
        }
        let lags: Vec<i64> = topics.values().map(|t| t.lag_messages).collect();
        let known = !lags.contains(&-1);
        self.status.lag_messages.store(if known { lags.iter().sum() } else { -1 }, Ordering::Relaxed);
    }
}

/// What librdkafka tells on the side: log lines, statistics, the fate of commits.
pub struct Events {
    source: Arc<str>,
    topic: Arc<str>,
    health: Arc<Health>,
    /// The library's last words on why it cannot connect: better than the code that `poll` and the requests return.
    last_failure: Mutex<String>,
}

impl Events {
    pub fn new(source: Arc<str>, topic: Arc<str>, health: Arc<Health>) -> Self {
        Events { source, topic, health, last_failure: Mutex::default() }
    }

    /// For people: why a request failed.
    pub fn why(&self, error: &KafkaError) -> String {
        let failure = self.last_failure.lock().expect("no holder panics");
        if failure.is_empty() { error.to_string() } else { failure.clone() }
    }

    /// It must not explain the next trouble too.
    pub fn forget_failure(&self) {
        self.last_failure.lock().expect("no holder panics").clear();
    }
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" {
            // "[thrd:h:9092/1]: h:9092/1: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 3ms in state
            // CONNECT, 5 identical error(s) suppressed)": the ends differ every time and tell nobody anything.
            let why = message.split_once("]: ").map_or(message, |(_, why)| why);
            let why = why.split(" (after ").next().unwrap_or(why);
            *self.last_failure.lock().expect("no holder panics") = why.to_string();
        }
        let (source, topic) = (&self.source, &self.topic);
        // Never above INFO: what matters comes as an error from `poll` too, and is judged there. The library itself
        // leaves passwords out of its lines (I12).
        match level {
            RDKafkaLogLevel::Debug => tracing::trace!(%source, %topic, facility, message, "librdkafka"),
            RDKafkaLogLevel::Info => tracing::debug!(%source, %topic, facility, message, "librdkafka"),
            _ => tracing::info!(%source, %topic, facility, message, "librdkafka"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice::<Statistics>(statistics) {
            Ok(statistics) => self.health.lag(&self.topic, lag(&statistics)),
            Err(error) => tracing::debug!(source = %self.source, %error, "librdkafka's statistics cannot be read"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(source = %self.source, topic = %self.topic, %error, reason, "librdkafka reports an error");
    }
}

impl ConsumerContext for Events {
    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        // For lag tools only: nothing of ours depends on it.
        if let Err(error) = result {
            tracing::debug!(source = %self.source, topic = %self.topic, %error, "group positions were not committed");
        }
    }
}

/// Of librdkafka's statistics, what the lag needs.
#[derive(Deserialize)]
struct Statistics {
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    partitions: HashMap<String, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    /// Last message given to us, plus one.
    app_offset: i64,
    eof_offset: i64,
    hi_offset: i64,
    /// End of what is committed; what we read up to.
    ls_offset: i64,
}

fn lag(statistics: &Statistics) -> i64 {
    let partitions = statistics.topics.values().flat_map(|t| t.partitions.values());
    partitions
        .map(|p| {
            let end = if p.ls_offset >= 0 { p.ls_offset } else { p.hi_offset };
            let reached = p.app_offset.max(p.eof_offset);
            // Negative numbers mean "not known yet".
            if end < 0 || reached < 0 { 0 } else { (end - reached).max(0) }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_counts_to_the_committed_end_and_knows_the_end_of_a_partition() {
        let text = r#"{"topics":{"t":{"partitions":{
            "0":{"app_offset":5,"eof_offset":-1001,"hi_offset":20,"ls_offset":15},
            "1":{"app_offset":7,"eof_offset":9,"hi_offset":9,"ls_offset":9},
            "2":{"app_offset":2,"eof_offset":-1001,"hi_offset":4,"ls_offset":-1001},
            "-1":{"app_offset":-1001,"eof_offset":-1001,"hi_offset":-1001,"ls_offset":-1001}}}}}"#;
        assert_eq!(lag(&serde_json::from_str(text).expect("JSON")), 10 + 2);
    }

    #[test]
    fn a_source_is_connected_when_all_its_topics_are() {
        let status = Arc::new(SourceStatus::default());
        let topics: Vec<Arc<str>> = vec!["a".into(), "b".into()];
        let health = Health::new("s".into(), status.clone(), &topics);
        health.up(&topics[0]);
        health.down(&topics[1], "no leader");
        assert!(!status.connected.load(Ordering::Relaxed));
        assert_eq!(*status.trouble.lock().expect("ok"), "topic \"b\": no leader");
        health.up(&topics[1]);
        assert!(status.connected.load(Ordering::Relaxed));
        assert_eq!(status.reconnects.load(Ordering::Relaxed), 0);
        health.down(&topics[0], "gone");
        health.up(&topics[0]);
        assert_eq!(status.reconnects.load(Ordering::Relaxed), 1);
        health.lag(&topics[0], 3);
        assert_eq!(status.lag_messages.load(Ordering::Relaxed), -1);
        health.lag(&topics[1], 4);
        assert_eq!(status.lag_messages.load(Ordering::Relaxed), 7);
    }
}
