//! The Kafka source against a broker inside the process (librdkafka's own double; it knows no transactions and cannot add
//! partitions: those are shown against a real broker by tests/e2e).

use crate::config::section::Section;
use crate::sources::kafka::KafkaSource;
use crate::sources::testing::{Running, Starts, run, shown, starts};
use crate::sources::{OpenContext, Start};
use crate::types::epoch::ChainId;
use crate::types::error::{Error, Result};
use crate::types::message::Messages;
use crate::types::position::{PartitionId, Position};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Broker {
    fn start(topics: &[(&str, i32)]) -> Self {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        for (topic, partitions) in topics {
            cluster.create_topic(topic, *partitions, 1).expect("a topic");
        }
        let producer = ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create();
        Broker { cluster, producer: producer.expect("a producer") }
    }

    fn send(&self, topic: &str, partition: i32, payloads: &[&str]) {
        for payload in payloads {
            self.record(BaseRecord::to(topic).partition(partition).payload(*payload).key(""));
        }
        self.flush();
    }

    fn record(&self, record: BaseRecord<'_, str, str>) {
        self.producer.send(record).map_err(|(e, _)| e).expect("queued");
    }

    fn flush(&self) {
        self.producer.flush(Duration::from_secs(30)).expect("sent");
    }

    fn source(&self, topics: &str, more: &str) -> KafkaSource {
        source(&self.cluster.bootstrap_servers(), topics, more)
    }

    async fn once(&self, topics: &str, start: Starts) -> (Vec<Messages>, Result<()>) {
        run(self.source(topics, ""), start, true).finish().await
    }

    async fn read(&self, topics: &str, start: Starts) -> Vec<Messages> {
        let (taken, ended) = self.once(topics, start).await;
        ended.expect("readable");
        taken
    }

    /// The first line of what is said when partition t/0 is to be read on from `position`.
    async fn refusal(&self, position: u64, identity: Option<serde_json::Value>) -> String {
        let identity = identity.map(Arc::new);
        let start = Starts::from([("t/0".into(), Start { position: Position(position), identity })]);
        match self.once("['t']", start).await {
            (_, Err(e @ Error::Refused { .. })) => e.to_string().lines().next().unwrap_or_default().to_string(),
            (taken, other) => panic!("a human must choose: {other:?} {taken:?}"),
        }
    }
}

fn source(brokers: &str, topics: &str, more: &str) -> KafkaSource {
    let text = format!("brokers = ['{brokers}']\ntopics = {topics}\n{more}");
    let section = Section::from_text("kafka", "k", &text).expect("TOML");
    let context = OpenContext {
        data_dir: "".into(),
        chain: ChainId(String::new()),
        queue_bytes: 1 << 20,
        quarantine_journal: false,
        skip_purged: false,
    };
    KafkaSource::open(&section, &context).expect("a good section")
}

/// Without what only announces a partition.
async fn take(running: &mut Running, messages: usize) -> Vec<Messages> {
    let mut taken = running.take(messages).await;
    taken.retain(|m| !m.items.is_empty());
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_position_is_refused_with_the_missing_range() {
    let broker = Broker::start(&[("t", 1)]);
    // The double keeps 5 MiB of a partition.
    let large = "x".repeat(500_000);
    for _ in 0..16 {
        broker.send("t", 0, &[&large]);
    }
    let said = broker.refusal(1, None).await;
    let (front, back) = ("partition \"t/0\": the messages [1, ", ") were purged before they were read");
    assert!(said.starts_with(front) && said.ends_with(back), "{said}");
    let first: u64 = said[front.len()..said.len() - back.len()].parse().expect("a position");

    // Told to go on: the span covers what is lost, so that the record has no hole, and a further start needs no telling.
    let start = Starts::from([("t/0".into(), Start { position: Position(1), identity: None })]);
    let mut source = broker.source("['t']", "");
    source.skip_purged = true;
    let (taken, ended) = run(source, start, true).finish().await;
    ended.expect("readable");
    assert_eq!(taken[0].span.from, Position(1));
    assert_eq!(taken[0].items[0].position, Position(first));
    assert_eq!(broker.read("['t']", starts(&taken)).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_topic_or_cluster_under_the_old_name_is_refused() {
    let broker = Broker::start(&[("t", 1)]);
    broker.send("t", 0, &["a"]);
    assert_eq!(broker.refusal(7, None).await, "partition \"t/0\" ends at 1, and was read up to 7");
    let said = broker.refusal(1, Some(serde_json::json!({ "cluster": "old" }))).await;
    assert!(said.starts_with("partition \"t/0\" was read from cluster \"old\", and these brokers are of"), "{said}");
}

/// The topic has grown past our position, so that nothing but its id tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_under_the_old_name_is_refused() {
    let broker = Broker::start(&[("t", 1), ("u", 1)]);
    broker.send("t", 0, &["a", "b", "c"]);
    let taken = broker.read("['t', 'u']", Starts::new()).await;
    let identity = |topic: &str| {
        let of_topic = taken.iter().find(|m| m.partition.name.starts_with(topic)).expect("it was read");
        of_topic.identity.as_ref().expect("Kafka partitions have one").as_ref().clone()
    };
    let (t, u) = (identity("t/"), identity("u/"));
    assert!(t["topic"].is_string() && t["cluster"] == u["cluster"] && t["topic"] != u["topic"], "{t} {u}");
    let said = broker.refusal(2, Some(u)).await;
    let expected = "topic \"t\" was deleted and made again: partition \"t/0\" was read with topic id ";
    assert!(said.starts_with(expected), "{said}");
    // A record of before ids goes on, and has one from then on.
    let older = Some(Arc::new(serde_json::json!({ "cluster": t["cluster"] })));
    let start = Starts::from([("t/0".into(), Start { position: Position(2), identity: older })]);
    let taken = broker.read("['t']", start).await;
    assert_eq!(shown(&taken), ["t/0: 2=c |3"]);
    assert_eq!(taken[0].identity.as_deref(), Some(&t));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_a_message_is_handed_over() {
    let broker = Broker::start(&[("t", 1)]);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "trace", value: Some("1") })
        .insert(Header { key: "trace", value: None::<&str> });
    broker.record(BaseRecord::to("t").payload("a").key("k").timestamp(1_234).headers(headers));
    broker.record(BaseRecord::to("t").key("k"));
    broker.record(BaseRecord::to("t").payload("b"));
    broker.flush();
    let taken = broker.read("['t']", Starts::new()).await;
    assert_eq!(shown(&taken), ["t/0: 0=a 1=- 2=b |3"]);
    let items: Vec<_> = taken.iter().flat_map(|m| &m.items).collect();
    let keys: Vec<_> = items.iter().map(|m| m.key.as_deref()).collect();
    assert_eq!(keys, [Some(&b"k"[..]), Some(b"k"), None]);
    assert_eq!(items[0].timestamp_us, Some(1_234_000));
    assert_eq!(items[0].topic.as_deref(), Some("t"));
    let headers: Vec<_> = items[0].headers.iter().flat_map(|h| h.iter()).map(|(k, v)| (&**k, v.as_deref())).collect();
    assert_eq!(headers, [("trace", Some(&b"1"[..])), ("trace", None)]);
    assert!(items[1].headers.is_none());
    assert_eq!(&*taken[0].partition_label, "0");
    assert!(taken[0].identity.as_ref().is_some_and(|i| i["cluster"].is_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_partition_goes_on_where_the_record_says() {
    let broker = Broker::start(&[("t", 3), ("u", 1)]);
    broker.send("t", 0, &["a", "b"]);
    broker.send("t", 2, &["c"]);
    broker.send("u", 0, &["d"]);
    let taken = broker.read("['t', 'u']", Starts::new()).await;
    assert_eq!(shown(&taken), ["t/0: 0=a 1=b |2", "t/1: |0", "t/2: 0=c |1", "u/0: 0=d |1"]);
    let start = starts(&taken);
    assert!(broker.read("['t', 'u']", start.clone()).await.is_empty(), "nothing twice");
    broker.send("t", 1, &["e"]);
    broker.send("t", 2, &["f", "g"]);
    assert_eq!(shown(&broker.read("['t', 'u']", start).await), ["t/1: 0=e |1", "t/2: 1=f 2=g |3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_is_decided_once() {
    let broker = Broker::start(&[("t", 1)]);
    broker.send("t", 0, &["old"]);
    let mut running = run(broker.source("['t']", "start = 'latest'"), Starts::new(), false);
    let announced = running.next().await.expect("the partition is announced");
    assert_eq!(shown(std::slice::from_ref(&announced)), ["t/0: |1"]);
    running.stop().await.expect("a stop is no error");
    // What comes while nobody reads is not skipped by the next start.
    broker.send("t", 0, &["new"]);
    let mut running = run(broker.source("['t']", "start = 'latest'"), starts(&[announced]), false);
    assert_eq!(shown(&running.take(1).await), ["t/0: 1=new |2"]);
    running.stop().await.expect("a stop is no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_is_waited_for() {
    let broker = Broker::start(&[("t", 1)]);
    broker.send("t", 0, &["a"]);
    broker.cluster.broker_down(-1).expect("down");
    let mut running = run(broker.source("['t']", ""), Starts::new(), false);
    running.wait_for_status("trouble", |s| !s.trouble.lock().expect("ok").is_empty()).await;
    broker.cluster.broker_up(-1).expect("up");
    let mut taken = take(&mut running, 1).await;
    running.wait_for_status("up", |s| s.connected.load(Ordering::Relaxed)).await;

    broker.cluster.broker_down(-1).expect("down");
    running.wait_for_status("down", |s| !s.connected.load(Ordering::Relaxed)).await;
    broker.cluster.broker_up(-1).expect("up");
    broker.send("t", 0, &["b"]);
    taken.extend(take(&mut running, 1).await);
    running.wait_for_status("up", |s| s.connected.load(Ordering::Relaxed)).await;
    assert_eq!(running.status.reconnects.load(Ordering::Relaxed), 1);
    assert_eq!(shown(&taken), ["t/0: 0=a 1=b |2"]);
    running.stop().await.expect("a stop is no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_once_a_broker_that_stays_away_ends_the_run_with_the_reason() {
    let mut source = source("127.0.0.1:1", "['t']", "");
    source.once_patience = Duration::from_millis(100);
    let (_, ended) = run(source, Starts::new(), true).finish().await;
    let said = ended.expect_err("nobody is there").to_string();
    assert!(said.starts_with("topic \"t\" cannot be read: 127.0.0.1:1"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_the_address_is_trouble_that_names_it() {
    let running = run(source("127.0.0.1:1", "['t']", ""), Starts::new(), false);
    running.wait_for_status("trouble", |s| s.trouble.lock().expect("ok").contains("Connection refused")).await;
    let said = running.status.trouble.lock().expect("ok").clone();
    assert!(said.starts_with("topic \"t\": 127.0.0.1:1"), "{said}");
    running.stop().await.expect("a stop is no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_refused_under_once() {
    let broker = Broker::start(&[]);
    broker
        .cluster
        .topic_error("t", rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        .expect("set");
    let (_, ended) = broker.once("['t']", Starts::new()).await;
    let said = ended.expect_err("it is not there").to_string();
    assert!(said.starts_with("topic \"t\" does not exist\n  hint: Create it"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_slot_holds_the_source_and_a_stop_ends_it() {
    let broker = Broker::start(&[("t", 1)]);
    let payload = "x".repeat(100_000);
    for _ in 0..40 {
        broker.send("t", 0, &[&payload]);
    }
    let mut running = run(broker.source("['t']", ""), Starts::new(), false);
    running.wait_for_status("messages", |s| s.messages_in.load(Ordering::Relaxed) > 0).await;
    let taken = running.take(40).await;
    assert!(taken.iter().all(|m| m.items.len() <= 11), "a handover holds about 1 MiB");
    running.stop().await.expect("a stop is no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn applied_positions_are_committed_for_lag_tools() {
    let broker = Broker::start(&[("t", 1)]);
    broker.send("t", 0, &["a", "b"]);
    let mut running = run(broker.source("['t']", "group = 'lag'"), Starts::new(), false);
    let starts = starts(&running.take(2).await);
    let applied = [(PartitionId::new("k", "t/0"), Position(2))].into_iter().collect();
    running.applied.send(Arc::new(applied)).expect("the source listens");
    assert_eq!(committed(&broker, "lag", 2).await, rdkafka::Offset::Offset(2));
    running.stop().await.expect("a stop is no error");

    // The process that recorded them was killed before it told the group, and nothing new comes.
    let running = run(broker.source("['t']", "group = 'later'"), starts, false);
    assert_eq!(committed(&broker, "later", 2).await, rdkafka::Offset::Offset(2));
    running.stop().await.expect("a stop is no error");
}

/// What the group has, once it is `wanted` or patience ends.
async fn committed(broker: &Broker, group: &str, wanted: i64) -> rdkafka::Offset {
    let reader: rdkafka::consumer::BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.cluster.bootstrap_servers())
        .set("group.id", group)
        .create()
        .expect("a consumer");
    let committed = tokio::task::spawn_blocking(move || {
        use rdkafka::consumer::Consumer;
        let patience = std::time::Instant::now() + crate::sources::testing::PATIENCE;
        loop {
            let mut list = rdkafka::TopicPartitionList::new();
            list.add_partition("t", 0);
            let found = reader.committed_offsets(list, Duration::from_secs(5)).expect("an answer");
            let offset = found.elements()[0].offset();
            if offset == rdkafka::Offset::Offset(wanted) || std::time::Instant::now() > patience {
                return offset;
            }
        }
    });
    committed.await.expect("no panic")
}
