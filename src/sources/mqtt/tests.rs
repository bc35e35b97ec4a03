//! The source against a broker that misbehaves on command: nothing lost, nothing acknowledged too early.

use super::*;
use crate::sources::mqtt::testing::{Broker, Script};
use crate::sources::testing::{PATIENCE, Running, Starts, run, shown, starts};
use crate::types::message::{Message, Messages};
use crate::types::position::{PartitionId, Position};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn source(broker: &Broker, data_dir: &Path, more: &str) -> Result<MqttSource> {
    let text = format!(
        "url = \"mqtt://127.0.0.1:{}\"\ntopics = [\"fleet/+/kinematic\"]\nclient_id = \"pipe\"\n{more}",
        broker.port
    );
    let section = Section::from_text("mqtt", "fleet", &text).expect("it is TOML");
    let context = OpenContext {
        data_dir: data_dir.to_path_buf(),
        chain: ChainId("chain-1".into()),
        queue_bytes: 1 << 20,
        quarantine_journal: false,
        skip_purged: false,
    };
    MqttSource::open(&section, &context)
}

fn running(broker: &Broker, data_dir: &Path, more: &str, starts: Starts) -> Running {
    run(source(broker, data_dir, more).expect("the source opens"), starts, false)
}

fn payloads(taken: &[Messages]) -> Vec<u64> {
    let payload =
        |m: &Message| String::from_utf8_lossy(m.payload.as_ref().expect("a payload")).parse().expect("a number");
    taken.iter().flat_map(|m| m.items.iter().map(payload)).collect()
}

/// Takes until every message of `0..count` has come at least once.
async fn take_all(running: &mut Running, count: u64) -> Vec<Messages> {
    let (mut taken, mut seen) = (Vec::new(), BTreeSet::new());
    while seen.len() < count as usize {
        let next = running.next().await.expect("the source ended early");
        seen.extend(payloads(std::slice::from_ref(&next)));
        taken.push(next);
    }
    taken
}

async fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let wait = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_closes_again_and_again_loses_nothing() {
    for protocol in [4, 5] {
        let dir = tempfile::tempdir().expect("a directory");
        let script = Script { window: 20, close_after: vec![7, 100, 333, 5, 600], ..Script::default() };
        let broker = Broker::start(script).await;
        broker.publish(0..2_000);
        let mut running = running(&broker, dir.path(), &format!("protocol = {protocol}\n"), Starts::new());
        let taken = take_all(&mut running, 2_000).await;
        eventually("the last acknowledgement", || broker.unacknowledged() == 0).await;
        running.stop().await.expect("a clean end");

        assert_eq!(broker.connects(), 6, "protocol {protocol}");
        assert_eq!(broker.subscribes(), 6, "subscribed on every connect");
        let came = payloads(&taken);
        let mut firsts = BTreeSet::new();
        let in_order: Vec<u64> = came.iter().copied().filter(|n| firsts.insert(*n)).collect();
        assert_eq!(in_order, (0..2_000).collect::<Vec<_>>(), "first receipts are in the broker's order");
        // What comes twice is what was in flight when the connection ended: at most a window for each of them.
        assert!(came.len() <= 2_000 + 5 * 20, "{} messages", came.len());
        let partition = shown(&taken).remove(0);
        assert!(partition.starts_with("journal: 0=0 1=1 2=2"), "{partition}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_that_is_not_in_the_journal() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script { window: 10, ..Script::default() }).await;
    broker.publish(0..100);
    let mut source = source(&broker, dir.path(), "").expect("the source opens");
    // No room from the start: nothing can be synced.
    source.journal_options.bytes_max = 0;
    let mut blocked = run(source, Starts::new(), false);
    eventually("a full window", || broker.unacknowledged() == 10).await;
    blocked.wait_for_status("ten messages", |s| s.messages_in.load(Ordering::Relaxed) == 10).await;
    assert_eq!((broker.acknowledged(), broker.connects()), (0, 1));
    // The process dies; the broker sends again, and everything comes exactly once.
    blocked.task.abort();
    let ended = (&mut blocked.task).await;
    assert!(ended.is_err_and(|e| e.is_cancelled()), "it ended before, or the journal's lock is not given back yet");
    eventually("the end of the connection", || broker.connected() == 0).await;
    let mut running = running(&broker, dir.path(), "", Starts::new());
    let taken = take_all(&mut running, 100).await;
    assert_eq!(payloads(&taken), (0..100).collect::<Vec<_>>());
    eventually("the last acknowledgement", || broker.acknowledged() == 100).await;
    running.stop().await.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_floods_a_small_queue_gets_further_with_every_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script { window: 100, ..Script::default() }).await;
    broker.publish(0..100);
    let mut source = source(&broker, dir.path(), "").expect("the source opens");
    // One message at a time: the broker sends the second long before the disk has the first.
    source.journal_options.queue_bytes_max = 1;
    let mut running = run(source, Starts::new(), false);
    eventually("some progress", || broker.acknowledged() >= 10).await;
    assert!(broker.connects() > 1, "the queue was never full");
    let mut taken = Vec::new();
    while payloads(&taken).len() < 10 {
        taken.extend(running.next().await);
    }
    running.stop().await.expect("a clean end");
    assert!(payloads(&taken).is_sorted(), "nothing came out of order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_brings_nothing_twice() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script { window: 50, ..Script::default() }).await;
    broker.publish(0..3_000);
    let (mut taken, mut from) = (Vec::new(), Starts::new());
    for _ in 0..4 {
        let mut running = running(&broker, dir.path(), "", from);
        for _ in 0..3 {
            taken.extend(running.next().await);
        }
        from = starts(&taken);
        running.stop().await.expect("a clean end");
        eventually("the end of the connection", || broker.connected() == 0).await;
        assert_eq!(broker.unacknowledged_and_journaled(dir.path()), 0);
    }
    let mut running = running(&broker, dir.path(), "", from);
    while payloads(&taken).len() < 3_000 {
        taken.extend(running.next().await);
    }
    running.stop().await.expect("a clean end");
    assert_eq!(payloads(&taken), (0..3_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_applied_is_read_again_and_what_was_is_trimmed() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script::default()).await;
    broker.publish(0..500);
    let mut first = running(&broker, dir.path(), "", Starts::new());
    let taken = take_all(&mut first, 500).await;
    first.stop().await.expect("a clean end");
    // Nothing was applied: the same messages under the same positions.
    let mut second = running(&broker, dir.path(), "", Starts::new());
    assert_eq!(shown(&take_all(&mut second, 500).await), shown(&taken));
    let applied = [(PartitionId::new("fleet", PARTITION), Position(500))].into();
    second.applied.send(Arc::new(applied)).expect("the source listens");
    broker.publish(500..510);
    assert_eq!(payloads(&second.take(10).await), (500..510).collect::<Vec<_>>());
    second.stop().await.expect("a clean end");
    let mut third = running(&broker, dir.path(), "", starts(&taken));
    assert_eq!(payloads(&third.take(10).await), (500..510).collect::<Vec<_>>());
    third.stop().await.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_headers_and_receipt_come_along() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script::default()).await;
    broker.publish(0..1);
    let mut running = running(&broker, dir.path(), "protocol = 5\n", Starts::new());
    let taken = running.take(1).await;
    let message = &taken[0].items[0];
    assert_eq!(message.topic.as_deref(), Some("fleet/v0/kinematic"));
    let headers = message.headers.as_ref().expect("MQTT 5 has headers");
    assert_eq!((&*headers[0].0, headers[0].1.as_deref()), ("n", Some(b"0".as_slice())));
    assert!(message.received_at_us > 1_700_000_000_000_000);
    assert_eq!((&*taken[0].partition.name, &*taken[0].partition_label), ("journal", "journal"));
    running.stop().await.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_0_is_kept_and_never_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script { qos: 0, ..Script::default() }).await;
    broker.publish(0..100);
    let mut running = running(&broker, dir.path(), "qos = 0\n", Starts::new());
    assert_eq!(payloads(&running.take(100).await), (0..100).collect::<Vec<_>>());
    running.stop().await.expect("a clean end");
    assert_eq!(broker.acknowledged(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_connections_share_the_messages() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script { window: 10, ..Script::default() }).await;
    broker.publish(0..1_000);
    let mut running = running(&broker, dir.path(), "connections = 3\nshare = \"g\"\n", Starts::new());
    let mut came = payloads(&running.take(1_000).await);
    running.wait_for_status("all connections", |s| s.connected.load(Ordering::Relaxed)).await;
    assert_eq!(broker.connects(), 3);
    came.sort();
    assert_eq!(came, (0..1_000).collect::<Vec<_>>());
    running.stop().await.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_and_tried_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = |change: fn(&mut Script)| {
        let mut script = Script::default();
        change(&mut script);
        script
    };
    for (change, protocol, expected) in [
        ((|s| s.refuse_connect = true) as fn(&mut Script), 4, "the broker refuses the connection: NotAuthorized"),
        (|s| s.refuse_connect = true, 5, "the broker refuses the connection: NotAuthorized"),
        (|s| s.refuse_subscribe = true, 4, "the broker refuses the subscription to \"fleet/+/kinematic\": refused"),
        (
            |s| s.payload_bytes = 17 << 20,
            4,
            "which is above \"packet_bytes_max\" and too large to be passed over; raise it",
        ),
        (
            |s| s.payload_bytes = 17 << 20,
            5,
            "which is above \"packet_bytes_max\" and too large to be passed over; raise it",
        ),
    ] {
        let broker = Broker::start(script(change)).await;
        broker.publish(0..1);
        let dir = dir.path().join(format!("{}", broker.port));
        let running = running(&broker, &dir, &format!("protocol = {protocol}\n"), Starts::new());
        let said = |s: &crate::sources::SourceStatus| s.trouble.lock().expect("no holder panics").clone();
        running.wait_for_status(expected, |s| said(s).contains(expected)).await;
        eventually("another try", || broker.connects() >= 2).await;
        running.stop().await.expect("a clean end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script::default()).await;
    let port = broker.port;
    broker.stop().await;
    let mut waiting = running(&broker, dir.path(), "", Starts::new());
    waiting.wait_for_status("a reconnect", |s| s.reconnects.load(Ordering::Relaxed) >= 1).await;
    assert!(!waiting.status.connected.load(Ordering::Relaxed));
    let said = waiting.status.trouble.lock().expect("no holder panics").clone();
    assert!(said.contains(&format!("at 127.0.0.1:{port}; trying again in ")), "{said}");
    let back = Broker::start_at(port, Script::default()).await;
    back.publish(0..3);
    assert_eq!(payloads(&waiting.take(3).await), [0, 1, 2]);
    waiting.stop().await.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_journal_is_refused_unless_the_user_gives_it_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script::default()).await;
    let at = |position| -> Starts {
        [(Arc::from(PARTITION), crate::sources::Start { position: Position(position), identity: None })].into()
    };
    let refusal = |ended: Result<()>| match ended {
        Err(Error::Refused { what, .. }) => what,
        other => panic!("not refused: {other:?}"),
    };
    let (_, gone) = running(&broker, dir.path(), "", at(500)).finish().await;
    assert!(refusal(gone).ends_with("of source \"fleet\" is gone, and the records read on at message 500"));

    broker.publish(0..10);
    let mut begun = running(&broker, dir.path(), "journal_lost = \"begin\"\n", at(500));
    let taken = begun.take(10).await;
    assert_eq!(taken[0].span.from, Position(500), "positions are never given twice");
    begun.stop().await.expect("a clean end");

    let (_, short) = running(&broker, dir.path(), "", at(600)).finish().await;
    assert!(refusal(short).contains("ends at message 510, and the records read on at 600"));
    let (_, trimmed) = running(&broker, dir.path(), "", at(400)).finish().await;
    assert!(refusal(trimmed).contains("has no messages 400 to 499"));

    broker.publish(10..12);
    let mut begun = running(&broker, dir.path(), "journal_lost = \"begin\"\n", at(600));
    assert_eq!(begun.take(2).await[0].span.from, Position(600));
    begun.stop().await.expect("a clean end");
    assert!(dir.path().join("journal/fleet.before-600").is_dir(), "the short journal was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_and_certificates_that_are_missing_are_named() {
    let broker = Broker::start(Script::default()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let fault = |more: &str| match source(&broker, dir.path(), more) {
        Err(Error::Config(faults)) => faults.iter().map(|f| f.message.clone()).collect::<Vec<_>>().join("; "),
        Err(e) => panic!("not a fault: {e}"),
        Ok(_) => panic!("no fault: {more}"),
    };
    let missing = fault("username = \"me\"\npassword = { env = \"NOT_SET\" }\n");
    assert_eq!(missing, "\"password\": the environment variable \"NOT_SET\" is not set");
}

/// A disk whose syncs wait for permits; one that is gone lets all through.
struct Gate {
    permits: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Gate {
    fn new() -> (std::sync::mpsc::Sender<()>, Arc<Gate>) {
        let (permit, permits) = std::sync::mpsc::channel();
        (permit, Arc::new(Gate { permits: std::sync::Mutex::new(permits) }))
    }
}

impl Disk for Gate {
    fn create(&self, path: &Path) -> std::io::Result<std::fs::File> {
        RealDisk.create(path)
    }

    fn append(&self, file: &mut std::fs::File, bytes: &[u8]) -> std::io::Result<()> {
        RealDisk.append(file, bytes)
    }

    fn sync(&self, file: &std::fs::File) -> std::io::Result<()> {
        // An error says that no more permits are needed.
        self.permits.lock().expect("no holder panics").recv().unwrap_or_default();
        RealDisk.sync(file)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_is_late_hits_no_message_of_the_next_connection() {
    for protocol in [4, 5] {
        let dir = tempfile::tempdir().expect("a directory");
        let script = Script { close_after: vec![5], redelivers_last: true, ..Script::default() };
        let broker = Broker::start(script).await;
        let mut source = source(&broker, dir.path(), &format!("protocol = {protocol}\n")).expect("the source opens");
        let (permit, gate) = Gate::new();
        source.disk = gate;
        broker.publish(0..5);
        let mut running = run(source, Starts::new(), false);
        eventually("the end of the first connection", || broker.connects() == 1 && broker.connected() == 0).await;
        // The next connection gives the ids 1 to 5 to these, and 6 to 10 to those that were sent before.
        broker.publish(5..10);
        eventually("everything in flight again", || broker.unacknowledged() == 10).await;
        assert_eq!(broker.acknowledged(), 0);
        // What the first connection brought becomes durable: its acknowledgements come too late.
        drop(permit);
        let taken = take_all(&mut running, 10).await;
        eventually("the last acknowledgement", || broker.unacknowledged() == 0).await;
        running.stop().await.expect("a clean end");
        // The broker would have closed on an acknowledgement out of turn.
        assert_eq!((broker.connects(), broker.acknowledged()), (2, 10), "protocol {protocol}");
        let mut came = payloads(&taken);
        came.sort();
        came.dedup();
        assert_eq!(came, (0..10).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_process_leaves_what_it_has_not_acknowledged_to_the_winner() {
    let (loser_dir, winner_dir) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let broker = Broker::start(Script { window: 10, ..Script::default() }).await;
    broker.publish(0..100);
    let mut loser = source(&broker, loser_dir.path(), "").expect("the source opens");
    let (permit, gate) = Gate::new();
    loser.disk = gate;
    let loser = run(loser, Starts::new(), false);
    eventually("a full window", || broker.unacknowledged() == 10).await;
    // As the engine does it: no orderly end, which would acknowledge.
    loser.task.abort();
    drop(permit);
    eventually("the end of the connection", || broker.connected() == 0).await;
    assert_eq!(broker.acknowledged(), 0);
    let mut winner = running(&broker, winner_dir.path(), "", Starts::new());
    assert_eq!(payloads(&take_all(&mut winner, 100).await), (0..100).collect::<Vec<_>>());
    winner.stop().await.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_kept_is_not_subscribed_again() {
    // MQTT 3.1.1 brokers send retained messages for every subscription; MQTT 5 brokers are told not to.
    for (protocol, subscribes, options) in [(4, 1, 1), (5, 1, 0x11)] {
        let dir = tempfile::tempdir().expect("a directory");
        let script = Script { close_after: vec![10, 20], keeps_session: true, ..Script::default() };
        let broker = Broker::start(script).await;
        broker.publish(0..100);
        let mut running = running(&broker, dir.path(), &format!("protocol = {protocol}\n"), Starts::new());
        take_all(&mut running, 100).await;
        running.wait_for_status("it is up", |s| s.connected.load(Ordering::Relaxed)).await;
        running.stop().await.expect("a clean end");
        assert_eq!((broker.connects(), broker.subscribes()), (3, subscribes), "protocol {protocol}");
        assert_eq!(broker.subscribe_options(), options, "protocol {protocol}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_aliases_are_not_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script::default()).await;
    let running = running(&broker, dir.path(), "protocol = 5\n", Starts::new());
    running.wait_for_status("it is up", |s| s.connected.load(Ordering::Relaxed)).await;
    running.stop().await.expect("a clean end");
    let properties = broker.property_ids();
    assert!(!properties.contains(&0x22), "{properties:x?}");
    assert!(properties.contains(&0x21) && properties.contains(&0x27), "receive maximum, packet size: {properties:x?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_empty_payloads_come_as_they_are() {
    for protocol in [4, 5] {
        let more = format!("protocol = {protocol}\n");
        for (script, bytes) in [
            (Script { payload_bytes: 100 * 1024, ..Script::default() }, 100 * 1024),
            // Larger than the journal's queue and group.
            (Script { payload_bytes: 3 << 20, ..Script::default() }, 3 << 20),
            (Script { is_empty: true, ..Script::default() }, 0),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            let broker = Broker::start(script).await;
            broker.publish(0..3);
            let mut running = running(&broker, dir.path(), &more, Starts::new());
            for message in running.take(3).await.iter().flat_map(|m| &m.items) {
                // Empty is not a tombstone.
                assert_eq!(message.payload.as_ref().map(|p| p.len()), Some(bytes), "protocol {protocol}");
            }
            running.stop().await.expect("a clean end");
        }
    }
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Logged(Arc<std::sync::Mutex<Vec<u8>>>);

impl Logged {
    fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let logged = self.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || logged.clone());
        tracing::subscriber::set_default(lines.finish())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no holder panics")).into_owned()
    }
}

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no holder panics").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// On one thread, so that all that is logged is seen.
#[tokio::test]
async fn a_packet_above_the_maximum_is_refused_by_name_and_stops_nothing() {
    for (protocol, qos) in [(4, 1), (5, 1), (4, 0)] {
        let dir = tempfile::tempdir().expect("a directory");
        // In the middle of a full window, so that its acknowledgement has some to wait for and some behind it.
        let script = Script { window: 5, qos, payload_bytes: 200_000, only_large: Some(4), ..Script::default() };
        let broker = Broker::start(script).await;
        broker.publish(0..10);
        let more = format!("protocol = {protocol}\nqos = {qos}\npacket_bytes_max = \"128KiB\"\n");
        let logged = Logged::default();
        let taken = {
            let _guard = logged.capture();
            let mut running = running(&broker, dir.path(), &more, Starts::new());
            let taken = running.take(9).await;
            eventually("all acknowledgements", || qos == 0 || broker.acknowledged() == 10).await;
            running.stop().await.expect("a clean end");
            taken
        };
        assert_eq!(payloads(&taken), [0, 1, 2, 3, 5, 6, 7, 8, 9], "protocol {protocol}");
        assert_eq!(broker.connects(), 1, "the connection goes on");
        let said = logged.text();
        let packet = if qos == 0 { 200_024 } else { 200_026 };
        for word in ["topic=fleet/v4/kinematic", &format!("bytes={packet}"), "packet_bytes_max=131072", "is refused"] {
            assert!(said.contains(word), "{word} in {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_keeps_the_session_alive_and_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script { window: 10, ..Script::default() }).await;
    broker.publish(0..50);
    let mut source = source(&broker, dir.path(), "keep_alive = \"5s\"\n").expect("the source opens");
    source.journal_options.bytes_max = 0;
    let running = run(source, Starts::new(), false);
    let said = |s: &crate::sources::SourceStatus| s.trouble.lock().expect("no holder panics").clone();
    running.wait_for_status("a word about it", |s| said(s).starts_with("journal full: 0 bytes of 0; because ")).await;
    // Longer than the keep-alive: the client pings, and the connection stays.
    eventually("a ping", || broker.pings() >= 1).await;
    assert_eq!((broker.connects(), broker.connected(), broker.unacknowledged(), broker.acknowledged()), (1, 1, 10, 0));
    assert!(running.status.connected.load(Ordering::Relaxed));
    running.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_stands_still_holds_up_no_acknowledgement() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script { window: 10, ..Script::default() }).await;
    broker.publish(0..20_000);
    // Nobody takes from the slot's queue of four.
    let mut running = running(&broker, dir.path(), "keep_alive = \"5s\"\n", Starts::new());
    eventually("everything in the journal", || broker.acknowledged() == 20_000).await;
    // It stands still for longer than the keep-alive: the client pings, and the session stays.
    eventually("a ping", || broker.pings() >= 1).await;
    assert_eq!(broker.connects(), 1);
    assert_eq!(payloads(&take_all(&mut running, 20_000).await), (0..20_000).collect::<Vec<_>>());
    running.stop().await.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_refused_and_then_read_around_on_demand() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(Script::default()).await;
    for from in [0, 10] {
        broker.publish(from..from + 10);
        let mut running = running(&broker, dir.path(), "", Starts::new());
        take_all(&mut running, from + 10).await;
        running.stop().await.expect("a clean end");
    }
    let segment = journal::directory(dir.path(), "fleet").join(format!("{:020}.segment", 0));
    let mut bytes = std::fs::read(&segment).expect("reads");
    bytes[50] ^= 1;
    std::fs::write(&segment, bytes).expect("writes");
    match running(&broker, dir.path(), "", Starts::new()).finish().await.1 {
        Err(Error::Refused { what, hint }) => {
            assert!(what.contains("is damaged at byte 0"), "{what}");
            assert!(hint.contains("--quarantine-journal"), "{hint}");
        }
        other => panic!("not refused: {other:?}"),
    }
    let mut mending = source(&broker, dir.path(), "").expect("the source opens");
    mending.journal_options.quarantine = true;
    let mut running = run(mending, Starts::new(), false);
    let taken = running.next().await.expect("what is left");
    assert_eq!(taken.span.from, Position(0), "the chain goes on behind the gap");
    let first = taken.items[0].position.0;
    assert!(first > 0 && first <= 10);
    for message in &taken.items {
        let number = String::from_utf8_lossy(message.payload.as_ref().expect("a payload")).parse();
        assert_eq!(number, Ok(message.position.0), "nothing has moved");
    }
    running.stop().await.expect("a clean end");
    assert!(journal::directory(dir.path(), "fleet").join("quarantine").is_dir());
}
