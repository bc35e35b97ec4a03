//! `pipe simulate`: a seeded fleet, or a recording, to a broker, a file or standard output, with an exact account.

use crate::cli;
use crate::simulate::options::{self, FleetOptions, Rate, Shares, Until};
use crate::simulate::output::{KafkaOptions, MqttOptions, OutputOptions};
use crate::simulate::replay::ReplayOptions;
use crate::simulate::rewrite::Rewrite;
use crate::simulate::run::{self, Feed, Options, Progress};
use crate::simulate::tally::Tally;
use crate::types::error::{Error, Result};
use clap::ValueEnum;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Send a simulated fleet, or a recorded file, at a given rate; print exactly what was sent.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pipe simulate --vehicles 200 --rate 500/s --for 30s --malformed 0.01 --duplicates 0.03
  pipe simulate --output kafka --brokers 127.0.0.1:9092 --rate max --messages 200000 --json
  pipe simulate --output file --path 'data/{stream}.jsonl' --messages 1000 --seed 7
  pipe simulate --ramp 1000,2000,5000@10s --for 30s
  pipe simulate --replay recorded.jsonl --rewrite sent_at=now --rewrite 'measurements[].t=now'")]
pub struct Args {
    /// Where the messages go
    #[arg(long, value_enum, default_value_t = OutputKind::Mqtt)]
    output: OutputKind,

    /// MQTT: mqtt://host:port or mqtts://host:port
    #[arg(long, default_value = "mqtt://127.0.0.1:1883", help_heading = "Output")]
    url: String,
    /// MQTT: connections; a vehicle keeps to one of them
    #[arg(long, default_value_t = 4, help_heading = "Output")]
    connections: usize,
    /// MQTT: unacknowledged messages per connection
    #[arg(long, default_value_t = 100, help_heading = "Output")]
    window: u16,
    /// MQTT: client id, each connection adds its number
    #[arg(long, default_value = "pipe-simulate", help_heading = "Output")]
    client_id: String,
    /// MQTT: user name; the password is read from PIPE_SIMULATE_PASSWORD
    #[arg(long, help_heading = "Output")]
    user: Option<String>,
    /// MQTT: PEM file of the authority that signed the broker's certificate
    #[arg(long, help_heading = "Output")]
    ca: Option<PathBuf>,
    /// Kafka: host:port, comma separated
    #[arg(long, default_value = "127.0.0.1:9092", help_heading = "Output")]
    brokers: String,
    /// Kafka: a librdkafka property, key=value; may be repeated
    #[arg(long = "property", value_name = "KEY=VALUE", help_heading = "Output")]
    properties: Vec<String>,
    /// File: path of the JSONL file; {stream} stands for kinematic or status
    #[arg(long, required_if_eq("output", "file"), help_heading = "Output")]
    path: Option<PathBuf>,
    /// Topic of kinematics; {vehicle} stands for the vehicle's id. In a replay: the topic, {key} stands for the key
    #[arg(long, help_heading = "Output")]
    topic: Option<String>,
    /// Topic of ignition, status, control and response messages
    #[arg(long, help_heading = "Output")]
    status_topic: Option<String>,

    /// Messages per second: 5000/s, or max [default: 100/s, in a replay its own pace]
    #[arg(long, value_parser = options::parse_rate, help_heading = "Pace")]
    rate: Option<Rate>,
    /// Messages per second in steps: 1000,2000,5000@10s
    #[arg(long, value_parser = options::parse_ramp, conflicts_with = "rate", help_heading = "Pace")]
    ramp: Option<Rate>,
    /// As the messages' own times say, this many times as fast
    #[arg(long, conflicts_with_all = ["rate", "ramp"], help_heading = "Pace")]
    speed: Option<f64>,
    /// Stop after so many messages
    #[arg(long, help_heading = "Pace")]
    messages: Option<u64>,
    /// Stop after this time, such as 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, help_heading = "Pace")]
    elapsed: Option<Duration>,

    /// Vehicles in the fleet
    #[arg(long, default_value_t = 100, help_heading = "Fleet")]
    vehicles: u32,
    /// The same seed and options give the same bytes
    #[arg(long, default_value_t = 1, help_heading = "Fleet")]
    seed: u64,
    /// Where the fleet's clock starts: an instant such as 2026-01-01T00:00:00Z, or now
    #[arg(long, default_value = "2026-01-01T00:00:00Z", help_heading = "Fleet")]
    start: String,
    /// Share of messages that cannot be decoded
    #[arg(long, default_value_t = 0.0, help_heading = "Fleet")]
    malformed: f64,
    /// Share of messages that are sent twice
    #[arg(long, default_value_t = 0.0, help_heading = "Fleet")]
    duplicates: f64,
    /// Share of messages that come 10 to 60 minutes late
    #[arg(long, default_value_t = 0.0, help_heading = "Fleet")]
    late: f64,
    /// Share of messages that later ones of the same vehicle overtake
    #[arg(long, default_value_t = 0.0, help_heading = "Fleet")]
    out_of_order: f64,

    /// Send a recorded JSONL file instead of a fleet, at its own pace unless --rate is given
    #[arg(long, value_name = "FILE", help_heading = "Replay")]
    replay: Option<PathBuf>,
    /// Change a field: path=now, path=const:VALUE or path=prefix:TEXT; may be repeated
    #[arg(long = "rewrite", value_name = "PATH=TO", value_parser = Rewrite::parse, requires = "replay", help_heading = "Replay")]
    rewrites: Vec<Rewrite>,
    /// Field with the key of a message
    #[arg(long, default_value = "vehicle_id", requires = "replay", help_heading = "Replay")]
    key_field: String,
    /// Field with the instant that paces the replay
    #[arg(long, default_value = "sent_at", requires = "replay", help_heading = "Replay")]
    time_field: String,

    /// Write a line per message: id, kind, class, topic, rows
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Print the account as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputKind {
    Mqtt,
    Kafka,
    File,
    Stdout,
}

/// Runs until done, or until Ctrl-C; either way everything sent has arrived when the account is printed.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let progress = Arc::new(Progress::default());
    let output = output(&args)?;
    let options = Options {
        feed: feed(&args)?,
        rate: rate(&args)?,
        until: Until { messages: args.messages, elapsed: args.elapsed },
        manifest: args.manifest.clone(),
        progress: progress.clone(),
    };
    let stop = CancellationToken::new();
    let running = run::run(options, output, stop.clone());
    tokio::pin!(running);
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let mut shown = Shown::new();
    let tally = loop {
        tokio::select! {
            ended = &mut running => break ended,
            _ = seconds.tick() => shown.show(&progress),
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.map_err(|e| Error::Failed(format!("cannot wait for Ctrl-C: {e}")))?;
                if stop.is_cancelled() {
                    shown.end();
                    return Err(Error::Failed("stopped before everything sent had arrived".into()).into());
                }
                stop.cancel();
            }
        }
    };
    shown.end();
    print(&tally?, &args)?;
    Ok(ExitCode::SUCCESS)
}

fn feed(args: &Args) -> Result<Feed> {
    let (kinematic, status) = match args.output {
        OutputKind::Kafka => options::KAFKA_TOPICS,
        _ => options::MQTT_TOPICS,
    };
    let start_us = instant(&args.start)?;
    if let Some(file) = &args.replay {
        return Ok(Feed::Replay(ReplayOptions {
            file: file.clone(),
            speed: args.speed.unwrap_or(1.0),
            rewrites: args.rewrites.clone(),
            topic: args.topic.clone().unwrap_or_else(|| kinematic.replace("{vehicle}", "{key}")),
            key_field: args.key_field.clone(),
            time_field: args.time_field.clone(),
            start_us: chrono::Utc::now().timestamp_micros(),
        }));
    }
    Ok(Feed::Fleet(FleetOptions {
        seed: args.seed,
        vehicles: args.vehicles,
        start_us,
        shares: Shares {
            malformed: args.malformed,
            duplicates: args.duplicates,
            late: args.late,
            out_of_order: args.out_of_order,
        },
        topic_kinematic: args.topic.clone().unwrap_or_else(|| kinematic.into()),
        topic_status: args.status_topic.clone().unwrap_or_else(|| status.into()),
    }))
}

fn instant(text: &str) -> Result<i64> {
    if text == "now" {
        return Ok(chrono::Utc::now().timestamp_millis() * 1_000);
    }
    chrono::DateTime::parse_from_rfc3339(text).map(|t| t.timestamp_micros()).map_err(|_| {
        options::wrong(format!("\"{text}\" is no instant"), "Write --start 2026-01-01T00:00:00Z or --start now.")
    })
}

fn rate(args: &Args) -> Result<Rate> {
    if let Some(rate) = args.rate.clone().or_else(|| args.ramp.clone()) {
        return Ok(rate);
    }
    match args.speed {
        Some(speed) if speed.is_finite() && speed > 0.0 => Ok(Rate::Speed(speed)),
        Some(speed) => Err(options::wrong(format!("{speed} is no speed"), "Write --speed 10 for ten times as fast.")),
        None if args.replay.is_some() => Ok(Rate::Speed(1.0)),
        None => Ok(Rate::PerSecond(100.0)),
    }
}

fn output(args: &Args) -> Result<OutputOptions> {
    Ok(match args.output {
        OutputKind::Stdout => OutputOptions::Stdout,
        OutputKind::File => OutputOptions::File(
            args.path
                .clone()
                .ok_or_else(|| options::wrong("--output file needs a path", "Give --path messages.jsonl."))?,
        ),
        OutputKind::Mqtt => OutputOptions::Mqtt(MqttOptions {
            url: args.url.clone(),
            client_id: args.client_id.clone(),
            user: args.user.clone().map(|user| Ok::<_, Error>((user, password()?))).transpose()?,
            ca: args.ca.as_deref().map(read).transpose()?,
            connections: args.connections,
            window: args.window.max(1),
            ..Default::default()
        }),
        OutputKind::Kafka => {
            let property = |text: &String| {
                let (key, value) = text.split_once('=').ok_or_else(|| {
                    options::wrong(format!("\"{text}\" is no property"), "Write --property security.protocol=SSL.")
                })?;
                Ok::<_, Error>((key.to_owned(), value.to_owned()))
            };
            OutputOptions::Kafka(KafkaOptions {
                brokers: args.brokers.clone(),
                properties: args.properties.iter().map(property).collect::<Result<_>>()?,
                finish_timeout: Duration::from_secs(60),
            })
        }
    })
}

/// From the environment, so that it is in no process list.
fn password() -> Result<String> {
    std::env::var("PIPE_SIMULATE_PASSWORD")
        .map_err(|_| options::wrong("--user needs a password", "Set PIPE_SIMULATE_PASSWORD."))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| options::wrong(format!("cannot read \"{}\": {e}", path.display()), "Check --ca."))
}

/// Progress once a second: a line that is written over on a terminal, a log line otherwise. Standard error, because
/// standard output may be the messages.
struct Shown {
    on_terminal: bool,
    since: Instant,
    messages: u64,
}

impl Shown {
    fn new() -> Self {
        Shown { on_terminal: std::io::stderr().is_terminal(), since: Instant::now(), messages: 0 }
    }

    fn show(&mut self, progress: &Progress) {
        let messages = progress.messages.load(Ordering::Relaxed);
        let rows = progress.rows.load(Ordering::Relaxed);
        let megabytes = progress.bytes.load(Ordering::Relaxed) as f64 / 1e6;
        let per_second = (messages - self.messages) as f64 / self.since.elapsed().as_secs_f64().max(0.001);
        (self.messages, self.since) = (messages, Instant::now());
        if self.on_terminal {
            eprint!("\r{messages} messages, {rows} rows, {megabytes:.1} MB, {per_second:.0}/s   ");
            // A line of progress that cannot be shown is no reason to stop sending.
            if let Err(e) = std::io::stderr().flush() {
                tracing::debug!(error = %e, "progress not shown");
            }
        } else if messages > 0 {
            tracing::info!(messages, rows, megabytes, per_second = per_second.round(), "sent");
        }
    }

    fn end(&self) {
        if self.on_terminal {
            eprintln!();
        }
    }
}

/// The account: JSON on standard output on request, else for people. With `--output stdout` it goes to standard error.
fn print(tally: &Tally, args: &Args) -> anyhow::Result<()> {
    let mut text = if args.json { serde_json::to_string_pretty(tally)? } else { describe(tally) };
    text.push('\n');
    if args.output == OutputKind::Stdout {
        std::io::stderr().write_all(text.as_bytes())?;
        return Ok(());
    }
    cli::print(&text)
}

fn describe(tally: &Tally) -> String {
    let mut lines = vec![format!(
        "sent {} messages ({} malformed) with {} rows ({} without duplicates) of {} vehicles in {:.1} s",
        tally.messages,
        tally.malformed,
        tally.rows,
        tally.rows_distinct,
        tally.vehicles,
        tally.elapsed_ms as f64 / 1e3
    )];
    for (kind, classes) in &tally.by_kind {
        let classes = classes.iter().map(|(class, count)| format!("{} {class}", count.messages));
        lines.push(format!("  {kind}: {}", classes.collect::<Vec<_>>().join(", ")));
    }
    for (topic, count) in &tally.by_topic {
        lines.push(format!("  topic {topic}: {} messages, {} rows", count.messages, count.rows));
    }
    if tally.republished > 0 {
        lines.push(format!("  published again after a lost connection: {}", tally.republished));
    }
    lines.join("\n")
}
