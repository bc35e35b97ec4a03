//! The MQTT source against brokers not written here: the one in this process, always, and a real Mosquitto with
//! `PIPE_TEST_MOSQUITTO=1`; without it those tests say so.

use pipe::config::section::Section;
use pipe::env::budget::Budget;
use pipe::env::clock::Clock;
use pipe::sources::mqtt::MqttSource;
use pipe::sources::{Applied, Handover, Intake, OpenContext, Source, SourceContext, SourceStatus, Start};
use pipe::types::epoch::ChainId;
use pipe::types::error::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

/// Enough to be in the middle of something at any time.
const COUNT: u64 = 20_000;

struct Mosquitto {
    dir: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Mosquitto {
    /// `None` with a word about it when it is not wanted here.
    fn start(test: &str, more: &str) -> Option<Mosquitto> {
        if std::env::var("PIPE_TEST_MOSQUITTO").is_err() {
            println!("{test}: not run, PIPE_TEST_MOSQUITTO is not set (Debian packages mosquitto, mosquitto-clients)");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let more = more.replace("DIR", &dir.path().display().to_string());
        let conf = format!(
            "listener {port} 127.0.0.1\nuser root\npersistence true\npersistence_location {}/\nautosave_interval 1\n\
             max_inflight_messages 20\nmax_queued_messages 0\n{more}",
            dir.path().display()
        );
        std::fs::write(dir.path().join("mosquitto.conf"), conf).expect("writes");
        let process = spawn(dir.path(), port);
        // Past the test's own capture, so that a gate's log shows that it ran.
        writeln!(std::io::stderr(), "{test}: runs against Mosquitto").expect("somebody listens");
        Some(Mosquitto { dir, port, process })
    }

    /// An orderly stop (it saves its sessions) and a new start.
    fn restart(&mut self) {
        self.stop();
        self.process = spawn(self.dir.path(), self.port);
    }

    fn stop(&mut self) {
        let told = Command::new("kill").arg(self.process.id().to_string()).status().expect("kill runs");
        assert!(told.success());
        self.process.wait().expect("it ends");
    }

    /// Publishes the numbers with QoS 1, in order, and waits until the broker has them.
    fn publish(&self, numbers: std::ops::Range<u64>) {
        let mut client = Command::new("mosquitto_pub")
            .args(["-p", &self.port.to_string(), "-q", "1", "-t", "fleet/v1/kinematic", "-l"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("mosquitto_pub is installed");
        let mut lines = client.stdin.take().expect("it reads");
        for n in numbers {
            writeln!(lines, "{n}").expect("it reads");
        }
        drop(lines);
        assert!(client.wait().expect("it ends").success());
    }
}

fn spawn(dir: &Path, port: u16) -> Child {
    let log = std::fs::File::create(dir.join("mosquitto.log")).expect("a log");
    let process = Command::new("mosquitto")
        .args(["-c", "mosquitto.conf"])
        .current_dir(dir)
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("mosquitto is installed");
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    process
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Running {
    taken: mpsc::Receiver<Handover>,
    stop: CancellationToken,
    status: Arc<SourceStatus>,
    task: JoinHandle<Result<()>>,
    _applied: watch::Sender<Applied>,
}

fn run(url: &str, data_dir: &Path, more: &str, from: u64) -> Running {
    let text = format!("url = \"{url}\"\ntopics = [\"fleet/+/kinematic\"]\nclient_id = \"pipe\"\n{more}");
    let section = Section::from_text("mqtt", "fleet", &text).expect("it is TOML");
    let context = OpenContext {
        data_dir: data_dir.into(),
        chain: ChainId("chain-1".into()),
        queue_bytes: 1 << 20,
        quarantine_journal: false,
        skip_purged: false,
    };
    let source = Box::new(MqttSource::open(&section, &context).expect("it opens"));
    let (to_slot, taken) = mpsc::channel(4);
    let (applied, applied_receiver) = watch::channel(Applied::default());
    let (stop, status) = (CancellationToken::new(), Arc::new(SourceStatus::default()));
    let start = Start { position: pipe::types::position::Position(from), identity: None };
    let start: BTreeMap<Arc<str>, Start> = if from > 0 { [("journal".into(), start)].into() } else { BTreeMap::new() };
    let context = SourceContext {
        intake: Intake::new(vec![to_slot], Budget::new(64 << 20)),
        start: Arc::new(start),
        once: false,
        applied: applied_receiver,
        stop: stop.clone(),
        status: status.clone(),
        clock: Clock::System,
    };
    Running { taken, stop, status, task: tokio::spawn(source.run(context)), _applied: applied }
}

impl Running {
    async fn next(&mut self) -> (u64, Vec<u64>) {
        let handover =
            tokio::time::timeout(PATIENCE, self.taken.recv()).await.expect("messages come").expect("it runs");
        let number = |payload: &[u8]| String::from_utf8_lossy(payload).parse().expect("a number");
        let items = &handover.messages.items;
        let numbers = items.iter().map(|m| number(m.payload.as_ref().expect("a payload"))).collect();
        (handover.messages.span.to.0, numbers)
    }

    async fn wait_until_up(&self) {
        let wait = async {
            while !self.status.connected.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the source connects");
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while self.taken.recv().await.is_some() {}
        self.task.await.expect("no panic").expect("a clean end");
    }
}

/// A session must exist before what is published counts for it.
async fn make_session(url: &str, data_dir: &Path, more: &str) {
    let running = run(url, data_dir, more, 0);
    running.wait_until_up().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_process_broker_and_a_killed_source() {
    for protocol in [4, 5] {
        let (address, mut broker) = pipe::simulate::broker::start(0).await.expect("it starts");
        let (data, more) = (tempfile::tempdir().expect("a directory"), format!("protocol = {protocol}\n"));
        let url = format!("mqtt://{address}");
        make_session(&url, data.path(), &more).await;
        let publisher = tokio::spawn(publish(address.port(), 5_000));
        let (mut seen, mut from, mut kills) = (BTreeSet::new(), 0, 0);
        while seen.len() < 5_000 {
            let mut running = run(&url, data.path(), &more, from);
            while seen.len() < 5_000 {
                let (to, numbers) = running.next().await;
                seen.extend(numbers);
                from = to;
                if seen.len() > (kills + 1) * 1_000 && kills < 3 {
                    break;
                }
            }
            if seen.len() < 5_000 {
                running.task.abort();
                assert!(running.task.await.is_err_and(|e| e.is_cancelled()));
                kills += 1;
            } else {
                running.stop().await;
            }
        }
        publisher.await.expect("no panic");
        broker.stop().await.expect("it ends");
        assert_eq!(seen, (0..5_000).collect(), "protocol {protocol}, {kills} kills");
    }
}

/// Publishes the numbers with QoS 1, in order, and waits until the broker has them.
async fn publish(port: u16, count: u64) {
    let options = rumqttc::MqttOptions::new("publisher", "127.0.0.1", port);
    let (client, mut events) = rumqttc::AsyncClient::new(options, 100);
    let sending = async {
        for n in 0..count {
            let sent = client.publish("fleet/v1/kinematic", rumqttc::QoS::AtLeastOnce, false, n.to_string()).await;
            sent.expect("the event loop runs");
        }
    };
    let polling = async {
        let mut acknowledged = 0;
        while acknowledged < count {
            if let rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_)) =
                events.poll().await.expect("the broker is there")
            {
                acknowledged += 1;
            }
        }
    };
    tokio::join!(sending, polling);
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_restarts_and_nothing_is_lost() {
    for (protocol, more) in [(4, "protocol = 4\n"), (5, "protocol = 5\nreceive_maximum = 20\n")] {
        let Some(mut broker) = Mosquitto::start("mosquitto_restarts", "allow_anonymous true\n") else { return };
        let data = tempfile::tempdir().expect("a directory");
        let url = format!("mqtt://127.0.0.1:{}", broker.port);
        make_session(&url, data.path(), more).await;
        broker.publish(0..COUNT);

        let mut running = run(&url, data.path(), more, 0);
        let status = running.status.clone();
        // Beside the reading: the source takes thousands of messages in the time that a look at them takes.
        let restarting = tokio::task::spawn_blocking(move || {
            let mut at = Vec::new();
            for restart in 1..=3u64 {
                while status.messages_in.load(Ordering::Relaxed) < restart * COUNT / 5 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                broker.restart();
                at.push(status.messages_in.load(Ordering::Relaxed));
            }
            (broker, at)
        });
        let (mut came, mut seen) = (Vec::new(), BTreeSet::new());
        while seen.len() < COUNT as usize {
            let (_, numbers) = running.next().await;
            seen.extend(&numbers);
            came.extend(numbers);
        }
        let (_broker, at) = restarting.await.expect("no panic");
        running.stop().await;
        assert!(at[0] < COUNT, "the broker was restarted in the middle: {at:?}");
        assert_eq!(seen, (0..COUNT).collect());
        let twice = came.len() as u64 - COUNT;
        // How many come twice is the broker's doing: from a stored session Mosquitto 2.0.11 sends far more than its window.
        let mut firsts = BTreeSet::new();
        assert!(came.iter().filter(|n| firsts.insert(**n)).is_sorted(), "first receipts are in order");
        println!("protocol {protocol}: restarted at {at:?}, {twice} of {COUNT} came twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_keeps_what_a_killed_process_had_not_synced() {
    let Some(broker) = Mosquitto::start("mosquitto_keeps", "allow_anonymous true\n") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    make_session(&url, data.path(), "").await;
    broker.publish(0..COUNT);
    let (mut seen, mut from, mut kills) = (BTreeSet::new(), 0, 0);
    while seen.len() < COUNT as usize {
        let mut running = run(&url, data.path(), "", from);
        while seen.len() < COUNT as usize {
            let (to, numbers) = running.next().await;
            seen.extend(numbers);
            from = to;
            if seen.len() > (kills + 1) * 1_000 {
                break;
            }
        }
        // No good-bye: the connection and the journal just end.
        running.task.abort();
        assert!(running.task.await.is_err_and(|e| e.is_cancelled()));
        kills += 1;
    }
    assert_eq!(seen, (0..COUNT).collect());
    println!("killed {kills} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_shares_among_connections() {
    let Some(broker) = Mosquitto::start("mosquitto_shares", "allow_anonymous true\n") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let mut running = run(&url, data.path(), "connections = 4\nshare = \"pipe\"\nprotocol = 5\n", 0);
    running.wait_until_up().await;
    broker.publish(0..2_000);
    let mut came = Vec::new();
    while came.len() < 2_000 {
        came.extend(running.next().await.1);
    }
    came.sort();
    assert_eq!(came, (0..2_000).collect::<Vec<_>>());
    running.stop().await;
}

/// A CA, a certificate for 127.0.0.1 and one for us, with the openssl of the machine.
fn certificates(dir: &Path) {
    let script = "set -e; cd \"$0\"
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem
        for who in server client; do
          openssl req -newkey rsa:2048 -nodes -subj /CN=$who -keyout $who.key -out $who.csr
          printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext
          openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $who.pem
        done";
    let made = Command::new("bash").arg("-c").arg(script).arg(dir).output().expect("bash runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_with_tls_certificates_and_a_password() {
    let keys = tempfile::tempdir().expect("a directory");
    let at = |file: &str| -> PathBuf { keys.path().join(file) };
    let conf = format!(
        "allow_anonymous false\npassword_file {}\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
        at("passwords").display(),
        at("ca.pem").display(),
        at("server.pem").display(),
        at("server.key").display()
    );
    if std::env::var("PIPE_TEST_MOSQUITTO").is_ok() {
        certificates(keys.path());
        let args = ["-b", "-c", &at("passwords").display().to_string(), "pipe", "secret"].map(str::to_string);
        assert!(Command::new("mosquitto_passwd").args(args).status().expect("it runs").success());
    }
    let Some(broker) = Mosquitto::start("mosquitto_with_tls", &conf) else { return };
    let url = format!("mqtts://127.0.0.1:{}", broker.port);
    let files = format!(
        "ca = {:?}\ncert = {:?}\nkey = {:?}\nusername = \"pipe\"\n",
        at("ca.pem"),
        at("client.pem"),
        at("client.key")
    );
    for protocol in [4, 5] {
        let data = tempfile::tempdir().expect("a directory");
        let good = run(&url, data.path(), &format!("{files}password = \"secret\"\nprotocol = {protocol}\n"), 0);
        good.wait_until_up().await;
        good.stop().await;
        let bad = run(&url, data.path(), &format!("{files}password = \"wrong\"\nprotocol = {protocol}\n"), 0);
        let said = async {
            loop {
                let trouble = bad.status.trouble.lock().expect("no holder panics").clone();
                if !trouble.is_empty() {
                    return trouble;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let said = tokio::time::timeout(PATIENCE, said).await.expect("the broker refuses");
        assert!(said.starts_with("the broker refuses the connection"), "{said}");
        assert!(!said.contains("wrong"), "I12");
        bad.stop().await;
    }
}
