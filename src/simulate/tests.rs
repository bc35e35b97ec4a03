//! Outputs: what the account says was sent is what arrived, and a failure is an error and not an account.

use crate::simulate::options::{FleetOptions, Rate, Shares, Until};
use crate::simulate::output::{KafkaOptions, MqttOptions, OutputOptions};
use crate::simulate::run::{Feed, Options, run};
use crate::simulate::sent::{Kind, Sent};
use crate::simulate::tally::Tally;
use crate::types::error::Error;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn fleet() -> FleetOptions {
    let shares = Shares { malformed: 0.02, duplicates: 0.03, late: 0.02, out_of_order: 0.02 };
    FleetOptions { seed: 3, vehicles: 50, shares, ..Default::default() }
}

pub fn options(messages: u64) -> Options {
    Options {
        feed: Feed::Fleet(fleet()),
        rate: Rate::Max,
        until: Until { messages: Some(messages), elapsed: None },
        manifest: None,
        progress: Arc::default(),
    }
}

/// What the same options send into a channel.
pub async fn expected(messages: u64) -> (Vec<Sent>, Tally) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(messages as usize);
    let tally = run(options(messages), OutputOptions::Channel(sender), CancellationToken::new()).await.expect("ran");
    let mut sent = Vec::new();
    while let Some(message) = receiver.recv().await {
        sent.push(message);
    }
    (sent, tally)
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_an_error_and_not_an_account() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port();
    let mqtt = MqttOptions { url: format!("mqtt://127.0.0.1:{port}"), patience: Duration::ZERO, ..Default::default() };
    let error =
        run(options(1_000), OutputOptions::Mqtt(mqtt), CancellationToken::new()).await.expect_err("nobody listens");
    assert!(matches!(&error, Error::Unavailable(text) if text.contains(&port.to_string())), "{error}");
}

#[tokio::test]
async fn a_wrong_call_is_said_before_anything_is_sent() {
    for url in ["localhost", "http://localhost", "mqtt://"] {
        let mqtt = MqttOptions { url: url.into(), ..Default::default() };
        let error = run(options(1), OutputOptions::Mqtt(mqtt), CancellationToken::new()).await.expect_err("no address");
        assert_eq!(error.exit_code(), 2, "{url}: {error}");
    }
    let feed = Feed::Fleet(FleetOptions { vehicles: 0, ..fleet() });
    let error = run(Options { feed, ..options(1) }, OutputOptions::Stdout, CancellationToken::new()).await;
    assert_eq!(error.expect_err("no vehicles").exit_code(), 2);
    let lost = OutputOptions::File("/nowhere/{stream}.jsonl".into());
    let error = run(options(1), lost, CancellationToken::new()).await.expect_err("no such folder");
    assert!(error.to_string().contains("/nowhere/"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_receives_every_message_keyed_by_vehicle_and_in_order() {
    const MESSAGES: u64 = 3_000;
    let cluster: MockCluster<'static, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster");
    for topic in ["vehicle.kinematic", "vehicle.status"] {
        cluster.create_topic(topic, 3, 1).expect("a topic");
    }
    let topics =
        FleetOptions { topic_kinematic: "vehicle.kinematic".into(), topic_status: "vehicle.status".into(), ..fleet() };
    let kafka = KafkaOptions {
        brokers: cluster.bootstrap_servers(),
        properties: BTreeMap::new(),
        finish_timeout: Duration::from_secs(60),
    };
    let options = Options { feed: Feed::Fleet(topics), ..options(MESSAGES) };
    let tally = run(options, OutputOptions::Kafka(kafka), CancellationToken::new()).await.expect("ran");
    let (sent, want) = expected(MESSAGES).await;
    assert_eq!(tally.by_kind, want.by_kind);
    let servers = cluster.bootstrap_servers();
    let received = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("group.id", "test")
            .set("auto.offset.reset", "earliest")
            .create()
            .expect("a consumer");
        consumer.subscribe(&["vehicle.kinematic", "vehicle.status"]).expect("subscribed");
        let mut received: HashMap<(Vec<u8>, String), Vec<Vec<u8>>> = HashMap::new();
        // A poll may come back with an event instead of a message; sixty seconds of nothing are too long anywhere.
        let (mut count, mut empty_polls) = (0, 0);
        while count < MESSAGES && empty_polls < 600 {
            let Some(message) = consumer.poll(Duration::from_millis(100)) else {
                empty_polls += 1;
                continue;
            };
            let message = message.expect("no error");
            let key = (message.key().expect("a key").to_vec(), message.topic().to_owned());
            received.entry(key).or_default().push(message.payload().expect("a payload").to_vec());
            count += 1;
        }
        received
    });
    let received = received.await.expect("no panic");
    let mut wanted: HashMap<(Vec<u8>, String), Vec<Vec<u8>>> = HashMap::new();
    for message in sent {
        let topic = if message.kind == Kind::Kinematic { "vehicle.kinematic" } else { "vehicle.status" };
        wanted.entry((message.key.as_bytes().to_vec(), topic.into())).or_default().push(message.payload.to_vec());
    }
    assert_eq!(received, wanted);
}

#[tokio::test]
async fn files_hold_what_the_account_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("{stream}.jsonl");
    let manifest = folder.path().join("manifest.jsonl");
    let options = Options { manifest: Some(manifest.clone()), ..options(1_000) };
    let tally = run(options, OutputOptions::File(path), CancellationToken::new()).await.expect("ran");
    let lines = |name: &str| -> Vec<Vec<u8>> {
        let bytes = std::fs::read(folder.path().join(name)).expect("written");
        bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let (kinematic, status) = (lines("kinematic.jsonl"), lines("status.jsonl"));
    assert_eq!(kinematic.len() as u64, tally.messages_of(Kind::Kinematic));
    assert_eq!((kinematic.len() + status.len()) as u64, tally.messages);
    let listed: Vec<serde_json::Value> =
        lines("manifest.jsonl").iter().map(|line| serde_json::from_slice(line).expect("JSON")).collect();
    assert_eq!(listed.len(), 1_000);
    assert_eq!(listed.iter().filter_map(|l| l["rows"].as_u64()).sum::<u64>(), tally.rows);
    assert_eq!(tally.by_topic.keys().collect::<Vec<_>>(), ["fleet/+/kinematic", "fleet/+/status"]);
}

#[tokio::test]
async fn a_run_ends_when_it_is_told_to() {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
    let stop = CancellationToken::new();
    let endless = Options { until: Until::default(), rate: Rate::PerSecond(1_000.0), ..options(0) };
    let running = tokio::spawn(run(endless, OutputOptions::Channel(sender), stop.clone()));
    receiver.recv().await.expect("a message");
    stop.cancel();
    let mut received = 1;
    while receiver.recv().await.is_some() {
        received += 1;
    }
    assert_eq!(running.await.expect("no panic").expect("ran").messages, received);
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    drop(receiver);
    let error = run(options(10), OutputOptions::Channel(sender), CancellationToken::new()).await;
    assert!(error.is_err(), "the receiver was gone");
}

/// The command in testdata/README.md, as options.
#[tokio::test]
async fn the_files_in_testdata_are_what_their_seed_gives() {
    let folder = tempfile::tempdir().expect("a folder");
    let shares = Shares { malformed: 0.04, duplicates: 0.03, late: 0.02, out_of_order: 0.03 };
    let feed = Feed::Fleet(FleetOptions { seed: 7, vehicles: 25, shares, ..Default::default() });
    let output = OutputOptions::File(folder.path().join("{stream}.jsonl"));
    run(Options { feed, ..options(400) }, output, CancellationToken::new()).await.expect("ran");
    let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fleet");
    for name in ["kinematic.jsonl", "status.jsonl"] {
        let made = std::fs::read(folder.path().join(name)).expect("written");
        assert!(made == std::fs::read(kept.join(name)).expect("kept"), "{name} differs: see testdata/README.md");
    }
}
