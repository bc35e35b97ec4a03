//! `pipe serve`: runs a pipeline until it is told to stop, or once over what there is.

use crate::cli::EXIT_RUN;
use crate::config::spec::ServerSpec;
use crate::engine::running::{Live, Running};
use crate::engine::start::{StartOptions, start};
use crate::engine::{assemble, load};
use crate::env::clock::Clock;
use crate::query::run::QuerySettings;
use crate::serve::live::LiveWorld;
use crate::serve::tls::Identity;
use crate::serve::{self, Servers, Settings, metrics};
use crate::types::error::{Error, Result};
use crate::types::limit::SHARE_QUERY_PERCENT;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Run a pipeline
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pipe serve --config pipelines/fleet.toml
  pipe serve --config pipelines/fleet.toml --once --skip kinematic
  pipe serve --config pipelines/fleet.toml --quarantine-journal
  pipe serve --config pipelines/fleet.toml --skip-purged")]
pub struct Args {
    /// The config file
    #[arg(short, long, value_name = "FILE")]
    pub config: std::path::PathBuf,
    /// Read every source up to the end it has now, commit, and end
    #[arg(long)]
    pub once: bool,
    /// Leave this source out (may be given several times)
    #[arg(long, value_name = "SOURCE")]
    pub skip: Vec<String>,
    /// With --once: print the account as JSON
    #[arg(long, requires = "once")]
    pub json: bool,
    /// Start although a source's journal is damaged, and give up the messages that cannot be read
    ///
    /// They were acknowledged, so no broker sends them again: they are lost, unless a copy of the file turns up. Which ones
    /// is logged as ERROR and counted in pipe_journal_lost_messages_total. The damaged files are copied to
    /// <data_dir>/journal/<source>/quarantine and never deleted; every message that can be read is kept. Without this, a
    /// damaged journal refuses the start.
    #[arg(long)]
    pub quarantine_journal: bool,
    /// Start although a Kafka broker has purged messages before they were read, and go on behind them
    ///
    /// They are lost to this pipeline. Which ones is logged as ERROR and counted in pipe_kafka_skipped_positions_total; state
    /// and tables go on. Without this, purged messages refuse the start, so that nobody loses any unawares.
    #[arg(long)]
    pub skip_purged: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let options =
        StartOptions { once: args.once, quarantine_journal: args.quarantine_journal, skip_purged: args.skip_purged };
    let mut served = Served::open(&args.config, options, &args.skip).await?;
    let grace = served.grace;
    let ended = until_end(&mut served.running, grace).await?;
    if let Err(error) = ended {
        tracing::error!("{error}");
        // Threads of a pipeline that was given up may still be at work; nothing of theirs counts any more.
        std::process::exit(error.exit_code().into());
    }
    if args.once {
        print_account(&served.running.live, args.json);
    }
    // A script must not take a part for the whole.
    let cut_short = args.once && served.running.live.stopping.load(Ordering::Relaxed);
    served.close().await;
    if cut_short {
        tracing::warn!(
            "a signal came before the end was reached; what was read is committed, and the next run reads on"
        );
        return Ok(ExitCode::from(EXIT_RUN));
    }
    Ok(ExitCode::SUCCESS)
}

/// How a pipeline ended, by itself or after a signal. The outer error: signals cannot be watched.
pub async fn until_end(running: &mut Running, grace: Duration) -> Result<Result<()>> {
    let mut signals = Signals::new()?;
    let name = tokio::select! {
        ended = running.wait() => return Ok(ended),
        name = signals.next() => name,
    };
    tracing::info!(signal = name, grace_s = grace.as_secs(), "stopping: reading ends, the last checkpoint is written");
    running.stop();
    Ok(tokio::select! {
        ended = running.wait() => ended,
        _ = tokio::time::sleep(grace) => Err(given_up("the last checkpoint took longer than shutdown_timeout")),
        _ = signals.next() => Err(given_up("a second signal came")),
    })
}

fn given_up(why: &str) -> Error {
    Error::Failed(format!("{why}; nothing is lost: what was not checkpointed is read again at the next start"))
}

/// A pipeline with its servers.
pub struct Served {
    pub running: Running,
    pub servers: Option<Servers>,
    pub grace: Duration,
    /// Queries run here, apart from ingestion (DESIGN: third pool).
    queries: QueryRuntime,
}

/// A runtime must not be dropped where others wait; also on the way out after an error (a port in use) it is let go.
#[derive(Default)]
struct QueryRuntime(Option<Runtime>);

impl Drop for QueryRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Served {
    /// Loads, takes the ports, starts, and serves. `once` has no servers: it answers nothing and ends by itself.
    pub async fn open(config: &Path, options: StartOptions, skip: &[String]) -> Result<Served> {
        let once = options.once;
        let (loaded, plan) = load::load_and_compile(config).await?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let memory_bytes = loaded.config.limits.memory.0;
        let grace = loaded.config.pipeline.shutdown_timeout.0;
        let pipeline = loaded.config.pipeline.name.clone();
        let (bound, queries) = match once {
            true => (None, QueryRuntime::default()),
            false => {
                let (settings, queries) = server_settings(&loaded.config.server, memory_bytes)?;
                (Some(serve::bind(settings).await?), queries)
            }
        };
        let skip = skip.iter().cloned().collect();
        let assembled = assemble::assemble(loaded, plan, once, &skip)?;
        metrics::install(&pipeline)?;
        let running = start(assembled, options).await?;
        let mut served = Served { running, servers: None, grace, queries };
        if let Some(bound) = bound {
            let world = Arc::new(LiveWorld::new(served.running.live.clone(), Clock::System));
            served.servers = Some(bound.serve(world)?);
        }
        Ok(served)
    }

    /// Afterwards nothing of the pipeline is open any more, the key-value store included: its directory may be removed.
    pub async fn close(self) {
        let Served { running, servers, queries, grace: _ } = self;
        if let Some(servers) = servers {
            servers.shutdown().await;
        }
        drop(queries);
        let deadline = Instant::now() + LET_GO_MAX;
        while Arc::strong_count(&running.live) > 1 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Time for connections that were cut to let go of what they read from.
const LET_GO_MAX: Duration = Duration::from_secs(2);

/// What the servers need of the config, with the threads that queries run on.
fn server_settings(server: &ServerSpec, memory_bytes: u64) -> Result<(Settings, QueryRuntime)> {
    let lookups = load::lookups();
    let mut tokens = Vec::new();
    for token in server.all_tokens() {
        let missing = |why: String| Error::refused(format!("a token of [server] is not there: {why}"), TOKEN_HINT);
        let token = token.reveal(&lookups).map_err(missing)?;
        if token.trim().is_empty() {
            return Err(missing("it is empty".into()));
        }
        tokens.push(token);
    }
    let tls = server.tls.as_ref().map(|tls| Identity::read(&tls.cert, &tls.key)).transpose()?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("query")
        .enable_all()
        .build()
        .map_err(|e| Error::Failed(format!("the query threads could not be started: {e}")))?;
    let query = QuerySettings {
        memory_bytes: memory_bytes * SHARE_QUERY_PERCENT / 100,
        partitions: threads,
        runtime: runtime.handle().clone(),
        clock: Clock::System,
    };
    let settings = Settings { http: server.http.clone(), flight: server.flight.clone(), query, tokens, tls };
    Ok((settings, QueryRuntime(Some(runtime))))
}

const TOKEN_HINT: &str = "Set the variable or the file that tokens names, or take the token out.";

pub struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    pub fn new() -> Result<Self> {
        let failed = |e| Error::Failed(format!("signals cannot be watched: {e}"));
        let term = signal(SignalKind::terminate()).map_err(failed)?;
        let int = signal(SignalKind::interrupt()).map_err(failed)?;
        Ok(Signals { term, int })
    }

    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// What `--once` did: the ledger, and where everything stands.
fn print_account(live: &Live, json: bool) {
    let counts = live.counts();
    let shown = live.published();
    let checkpoint = live.checkpoint_status();
    let keys: Vec<(String, u64)> = live
        .plan
        .views
        .iter()
        .enumerate()
        .map(|(i, view)| (view.name.to_string(), shown.iter().map(|p| p.view_keys[i]).sum()))
        .collect();
    if json {
        let tables: std::collections::BTreeMap<String, u64> =
            checkpoint.rows_total.iter().map(|(k, v)| (k.to_string(), *v)).collect();
        let keys: std::collections::BTreeMap<String, u64> = keys.into_iter().collect();
        let account =
            serde_json::json!({ "counts": counts, "tables": tables, "views": keys, "epoch": checkpoint.epoch });
        println!("{account}");
        return;
    }
    println!(
        "messages  received {} = decoded {} + rejected {} + dropped {}",
        counts.received, counts.decoded, counts.rejected, counts.dropped
    );
    for (table, rows) in &checkpoint.rows_total {
        println!("table     {table}: {rows} rows since the chain began");
    }
    for (view, keys) in keys {
        println!("view      {view}: {keys} keys");
    }
    println!("record    {}", checkpoint.epoch);
}
