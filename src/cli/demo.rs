//! `pipe demo`: broker, simulated fleet, pipeline and servers in one process, and a reconciled account at the end.

use crate::cli::EXIT_RUN;
use crate::cli::serve::{Served, Signals};
use crate::engine::running::Live;
use crate::engine::start::StartOptions;
use crate::simulate::broker;
use crate::simulate::options::{FleetOptions, Rate, Shares, Until};
use crate::simulate::output::{MqttOptions, OutputOptions};
use crate::simulate::run::{Feed, Options, Progress};
use crate::simulate::tally::Tally;
use crate::types::count::Counts;
use crate::types::error::{Error, Result};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Watch a simulated fleet flow through the whole path, with nothing to install
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pipe demo
  pipe demo --for 30s
  pipe demo --for 30s --rate 5000 --vehicles 2000

While it runs, in another terminal:
  pipe sql \"SELECT * FROM hot.vehicle_latest ORDER BY t DESC LIMIT 5\"")]
pub struct Args {
    /// End after this time with a reconciled account; without it, run until Ctrl-C
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// Messages per second
    #[arg(long, default_value_t = 1000.0)]
    pub rate: f64,
    /// Vehicles in the fleet
    #[arg(long, default_value_t = 500)]
    pub vehicles: u32,
    /// Seed of the fleet: the same seed sends the same messages
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Directory for the lake, the state and the config that is run; a new one under the system's temporary directory if
    /// absent
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// host:port of HTTP; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub http: String,
    /// host:port of Arrow Flight SQL; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:50051")]
    pub flight: String,
    /// Print the account as JSON
    #[arg(long)]
    pub json: bool,
}

/// The fleet pipeline's SQL, as it stands in sql/fleet.
const SQL: [(&str, &str); 4] = [
    ("10_sources.sql", include_str!("../../sql/fleet/10_sources.sql")),
    ("20_points.sql", include_str!("../../sql/fleet/20_points.sql")),
    ("30_hot.sql", include_str!("../../sql/fleet/30_hot.sql")),
    ("40_deliver.sql", include_str!("../../sql/fleet/40_deliver.sql")),
];

/// Malformed 1 %, device duplicates 3 %, late 1 %, out of order 2 %: what a real fleet sends.
const SHARES: Shares = Shares { malformed: 0.01, duplicates: 0.03, late: 0.01, out_of_order: 0.02 };

/// How long the last messages may take to become queryable once the fleet is silent.
const DRAIN_MAX: Duration = Duration::from_secs(60);

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("pipe-demo-{}", std::process::id())),
    };
    let (broker_address, mut broker) = broker::start(0).await?;
    let config = write_config(&dir, broker_address.port(), &args)?;
    let mut served = Served::open(&config, StartOptions::default(), &[]).await?;
    if !args.json {
        banner(&dir, &config, &served, broker_address.port());
    }

    subscribed(&served.running.live).await?;

    let progress = Arc::new(Progress::default());
    let stop = CancellationToken::new();
    let simulation = tokio::spawn(crate::simulate::run(
        Options {
            feed: Feed::Fleet(FleetOptions {
                seed: args.seed,
                vehicles: args.vehicles,
                shares: SHARES,
                ..FleetOptions::default()
            }),
            rate: Rate::PerSecond(args.rate),
            until: Until { messages: None, elapsed: args.duration },
            manifest: None,
            progress: progress.clone(),
        },
        OutputOptions::Mqtt(MqttOptions { url: format!("mqtt://{broker_address}"), ..MqttOptions::default() }),
        stop.clone(),
    ));
    let sampler = Sampler::start(progress.clone(), served.running.live.clone());
    let tally = watch(simulation, &mut served, &progress, &stop, args.json).await?;

    let live = served.running.live.clone();
    let drained = drain(&live, tally.messages).await;
    let latency = sampler.finish();
    served.running.stop();
    served.running.wait().await?;
    let account = Account::new(&tally, &live, latency);
    drop(live);
    served.close().await;
    broker.stop().await?;
    account.print(args.json, &dir);
    let is_right = account.differences.is_empty() && drained;
    if args.dir.is_none() && is_right && args.duration.is_some() {
        std::fs::remove_dir_all(&dir)
            .map_err(|e| Error::Failed(format!("cannot remove \"{}\": {e}", dir.display())))?;
    }
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::from(EXIT_RUN) })
}

/// The config that is run stands in the directory, so that it can be read, changed and served.
fn write_config(dir: &Path, mqtt_port: u16, args: &Args) -> Result<PathBuf> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |e: std::io::Error| {
            Error::refused(format!("cannot write \"{path}\": {e}"), "Give --dir a directory that this user may write.")
        }
    };
    let sql = dir.join("sql");
    std::fs::create_dir_all(&sql).map_err(failed(&sql))?;
    for (name, text) in SQL {
        let path = sql.join(name);
        std::fs::write(&path, text).map_err(failed(&path))?;
    }
    let (http, flight) = (&args.http, &args.flight);
    let text = format!(
        r#"# The fleet pipeline of `pipe demo`: both streams over the demo's own MQTT broker, everything on local disk.
[pipeline]
name = "demo"
sql = ["sql/*.sql"]
data_dir = "data"

[checkpoint]
interval = "5s"

[server]
http = "{http}"
flight = "{flight}"
open = true                            # simulated data: whoever reaches the ports may read it

[source.kinematic]
type = "mqtt"
url = "mqtt://127.0.0.1:{mqtt_port}"
topics = ["fleet/+/kinematic"]
client_id = "pipe-demo-kinematic"

[source.status]
type = "mqtt"
url = "mqtt://127.0.0.1:{mqtt_port}"
topics = ["fleet/+/status"]
client_id = "pipe-demo-status"

[sink.lake]
type = "delta"
uri = "lake"

[sink.lake.table.points]
partition_by = ["event_date"]

[sink.kv]
type = "kv"
"#
    );
    let path = dir.join("demo.toml");
    std::fs::write(&path, text).map_err(failed(&path))?;
    Ok(path)
}

fn banner(dir: &Path, config: &Path, served: &Served, mqtt_port: u16) {
    println!("fleet -> mqtt://127.0.0.1:{mqtt_port} -> decode -> views -> hot state, Delta tables, key-value store");
    println!("  config   {}", config.display());
    println!("  lake     {}", dir.join("lake").display());
    if let Some(servers) = &served.servers {
        if let Some(http) = servers.http_addr {
            println!("  http     http://{http}/api/v1/status   (also /metrics, /readyz)");
        }
        if let Some(flight) = servers.flight_addr {
            println!("  flight   pipe sql --url grpc://{flight} \"SELECT * FROM hot.vehicle_latest LIMIT 5\"");
        }
    }
    println!();
}

/// The fleet starts when the pipeline listens: a broker keeps nothing for a session that does not exist yet.
async fn subscribed(live: &Live) -> Result<()> {
    let deadline = Instant::now() + DRAIN_MAX;
    while !live.sources.values().all(|source| source.status.connected.load(Ordering::Relaxed)) {
        if Instant::now() > deadline {
            return Err(Error::Failed("the pipeline could not subscribe to the demo's own broker".into()));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Shows live counters until the fleet has sent everything, the pipeline fails, or Ctrl-C.
async fn watch(
    mut simulation: tokio::task::JoinHandle<Result<Tally>>,
    served: &mut Served,
    progress: &Progress,
    stop: &CancellationToken,
    json: bool,
) -> anyhow::Result<Tally> {
    let mut signals = Signals::new()?;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut before = (0, Instant::now());
    let live = served.running.live.clone();
    loop {
        tokio::select! {
            tally = &mut simulation => return Ok(tally??),
            ended = served.running.wait() => {
                ended?;
                anyhow::bail!("the pipeline ended before the fleet did");
            }
            _ = signals.next() => stop.cancel(),
            _ = tick.tick() => if !json { before = line(&live, progress, before) },
        }
    }
}

fn line(live: &Live, progress: &Progress, before: (u64, Instant)) -> (u64, Instant) {
    let counts = live.counts();
    let checkpoint = live.checkpoint_status();
    let rows: u64 = checkpoint.rows_total.iter().filter(|(k, _)| k.ends_with(".points")).map(|(_, v)| *v).sum();
    let keys: u64 = live.published().iter().map(|p| p.view_keys.iter().copied().max().unwrap_or(0)).sum();
    let now = Instant::now();
    let rate = (counts.received - before.0) as f64 / now.duration_since(before.1).as_secs_f64().max(0.001);
    let text = format!(
        "sent {:>8}  queryable {:>8} ({rate:>6.0}/s)  rejected {:>5}  keys {keys:>6}  rows in lake {rows:>9}  record {}",
        progress.messages.load(Ordering::Relaxed),
        counts.received,
        counts.rejected,
        checkpoint.epoch,
    );
    let mut out = std::io::stdout();
    let shown = if out.is_terminal() { write!(out, "\r{text}") } else { writeln!(out, "{text}") };
    // A closed terminal is no reason to stop the pipeline.
    if let Err(e) = shown.and_then(|_| out.flush()) {
        tracing::debug!("the live line could not be shown: {e}");
    }
    (counts.received, now)
}

/// Waits until everything sent has been handed to a slot and is queryable.
async fn drain(live: &Live, sent: u64) -> bool {
    let deadline = Instant::now() + DRAIN_MAX;
    while live.counts().received < sent {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Samples how many messages were sent and how many are queryable, every millisecond: the k-th message sent became
/// queryable when the k-th was. Lanes overtake each other by little, and a sum does not care which message it counts.
struct Sampler {
    done: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<(Instant, u64, u64)>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Latency {
    p50: Duration,
    p99: Duration,
}

impl Sampler {
    fn start(progress: Arc<Progress>, live: Arc<Live>) -> Sampler {
        let done = Arc::new(AtomicBool::new(false));
        let stop = done.clone();
        let thread = std::thread::spawn(move || {
            let mut samples: Vec<(Instant, u64, u64)> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                // Queryable first: a message sent in between must not look older than it is.
                let queryable = live.counts().received;
                let sample = (Instant::now(), progress.messages.load(Ordering::Relaxed), queryable);
                if samples.last().is_none_or(|s| (s.1, s.2) != (sample.1, sample.2)) {
                    samples.push(sample);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            samples
        });
        Sampler { done, thread }
    }

    fn finish(self) -> Latency {
        self.done.store(true, Ordering::Relaxed);
        let Ok(samples) = self.thread.join() else { return Latency::default() };
        let mut waits = Vec::new();
        let mut reader = 0;
        // One point per sample of the sender: the messages it had sent by then, and when that many were queryable.
        for (at, sent, _) in &samples {
            while reader < samples.len() && samples[reader].2 < *sent {
                reader += 1;
            }
            let Some(visible) = samples.get(reader) else { break };
            if *sent > 0 {
                waits.push(visible.0.saturating_duration_since(*at));
            }
        }
        waits.sort();
        let quantile =
            |q: f64| waits.get(((waits.len() as f64 * q) as usize).min(waits.len().saturating_sub(1))).copied();
        Latency { p50: quantile(0.5).unwrap_or_default(), p99: quantile(0.99).unwrap_or_default() }
    }
}

struct Account {
    lines: Vec<(String, u64, u64)>,
    differences: Vec<String>,
    redelivered: u64,
    latency: Latency,
    elapsed: Duration,
    counts: Counts,
}

impl Account {
    fn new(tally: &Tally, live: &Live, latency: Latency) -> Account {
        let counts = live.counts();
        let total = |table: &str| live.checkpoint_status().rows_total.get(table).copied().unwrap_or(0);
        let view = live.plan.views.iter().position(|v| &*v.name == "vehicle_latest");
        let keys = view.map_or(0, |i| live.published().iter().map(|p| p.view_keys[i]).sum());
        // Over MQTT a message may arrive again (QoS 1); the journal takes what it acknowledges, so these are counted.
        let redelivered = counts.received.saturating_sub(tally.messages);
        let lines = vec![
            ("messages sent = received".to_string(), tally.messages, counts.received - redelivered),
            (
                "received = decoded + rejected + dropped".to_string(),
                counts.received,
                counts.decoded + counts.rejected + counts.dropped,
            ),
            ("malformed sent = rejected".to_string(), tally.malformed, counts.rejected),
            ("rejected = rows in lake.dead_letter".to_string(), counts.rejected, total("lake.dead_letter")),
            ("measurements sent = rows in lake.points".to_string(), tally.rows, total("lake.points")),
            ("vehicles seen = keys in hot.vehicle_latest".to_string(), tally.vehicles, keys),
        ];
        let exact = redelivered == 0 && tally.republished == 0;
        let differences = lines
            .iter()
            .filter(
                |(what, sent, got)| {
                    if exact { sent != got } else { got < sent || (what.starts_with("received") && sent != got) }
                },
            )
            .map(|(what, sent, got)| format!("{what}: {sent} against {got}"))
            .collect();
        Account { lines, differences, redelivered, latency, elapsed: Duration::from_millis(tally.elapsed_ms), counts }
    }

    fn print(&self, json: bool, dir: &Path) {
        if json {
            let lines: Vec<_> = self
                .lines
                .iter()
                .map(|(what, a, b)| serde_json::json!({ "what": what, "expected": a, "found": b }))
                .collect();
            let account = serde_json::json!({
                "account": lines,
                "differences": self.differences,
                "redelivered": self.redelivered,
                "counts": self.counts,
                "latency_ms": { "p50": self.latency.p50.as_secs_f64() * 1e3, "p99": self.latency.p99.as_secs_f64() * 1e3 },
                "seconds": self.elapsed.as_secs_f64(),
            });
            println!("{account}");
            return;
        }
        println!("\n");
        for (what, a, b) in &self.lines {
            let mark = if a == b { "ok" } else { "DIFFERS" };
            println!("  {what:<46} {a:>10} {b:>10}  {mark}");
        }
        if self.redelivered > 0 {
            println!("  the broker delivered {} messages twice (QoS 1)", self.redelivered);
        }
        println!(
            "  publish -> queryable: p50 {:.1} ms, p99 {:.1} ms over {:.0} s",
            self.latency.p50.as_secs_f64() * 1e3,
            self.latency.p99.as_secs_f64() * 1e3,
            self.elapsed.as_secs_f64()
        );
        match self.differences.is_empty() {
            true => println!("\nthe account is reconciled to the row"),
            false => println!(
                "\nthe account DIFFERS; the lake is kept in {}:\n  {}",
                dir.display(),
                self.differences.join("\n  ")
            ),
        }
    }
}
