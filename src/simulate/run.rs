//! One simulation from its first message to the last acknowledgement, and the account of it.

use crate::simulate::fleet::Fleet;
use crate::simulate::options::{FleetOptions, Rate, Until};
use crate::simulate::output::{Output, OutputOptions};
use crate::simulate::pace;
use crate::simulate::replay::{Replay, ReplayOptions};
use crate::simulate::sent::Sent;
use crate::simulate::tally::Tally;
use crate::types::error::{Error, Result};
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub struct Options {
    pub feed: Feed,
    pub rate: Rate,
    pub until: Until,
    /// A line per message: what it is and what was done to it, but not its payload.
    pub manifest: Option<PathBuf>,
    /// Read by whoever shows how far it is.
    pub progress: Arc<Progress>,
}

/// Where messages come from.
pub enum Feed {
    Fleet(FleetOptions),
    Replay(ReplayOptions),
}

/// Handed to the output so far; the last ones may not have been acknowledged yet.
#[derive(Debug, Default)]
pub struct Progress {
    pub messages: AtomicU64,
    pub rows: AtomicU64,
    pub bytes: AtomicU64,
}

enum Messages {
    Fleet(Box<Fleet>),
    Replay(Replay),
}

impl Messages {
    fn next(&mut self) -> Result<Option<Sent>> {
        match self {
            Messages::Fleet(fleet) => Ok(fleet.next()),
            Messages::Replay(replay) => replay.next_message(),
        }
    }
}

/// Sends until the messages or the time given are used up, a recording ends, or `stop` is cancelled; then waits until
/// everything sent has arrived. An error means that the account would not be true.
pub async fn run(options: Options, output: OutputOptions, stop: CancellationToken) -> Result<Tally> {
    let mut messages = match options.feed {
        Feed::Fleet(fleet) => {
            fleet.validate()?;
            Messages::Fleet(Box::new(Fleet::new(fleet)))
        }
        Feed::Replay(replay) => Messages::Replay(Replay::open(replay)?),
    };
    let mut manifest = options.manifest.map(Manifest::create).transpose()?;
    let mut output = Output::connect(output).await?;
    let mut tally = Tally::default();
    let started = Instant::now();
    let deadline = options.until.elapsed.map(|elapsed| started + elapsed);
    let mut first_us = None;
    while options.until.messages.is_none_or(|max| tally.messages < max) {
        let Some(sent) = messages.next()? else { break };
        let fleet_us = sent.due_us - *first_us.get_or_insert(sent.due_us);
        let due = started + pace::due(&options.rate, tally.messages, fleet_us);
        if !wait(due, deadline, &stop).await {
            break;
        }
        output.send(&sent).await?;
        if let Some(manifest) = &mut manifest {
            manifest.write(&sent)?;
        }
        tally.add(&sent);
        options.progress.messages.fetch_add(1, Ordering::Relaxed);
        options.progress.rows.fetch_add(u64::from(sent.rows), Ordering::Relaxed);
        options.progress.bytes.fetch_add(sent.payload.len() as u64, Ordering::Relaxed);
        if tally.messages.is_multiple_of(YIELD_MESSAGES) {
            tokio::task::yield_now().await;
        }
    }
    tally.republished = output.finish().await?;
    tally.elapsed_ms = started.elapsed().as_millis() as u64;
    if let Some(manifest) = manifest {
        manifest.finish()?;
    }
    Ok(tally)
}

/// Messages after which others on this thread get their turn, when nothing else makes the loop wait.
const YIELD_MESSAGES: u64 = 64;

/// Waits until `due`. False: the run is over before that. Below a millisecond it does not wait: the timer is no finer,
/// and the pace catches up by itself.
async fn wait(due: Instant, deadline: Option<Instant>, stop: &CancellationToken) -> bool {
    if stop.is_cancelled() || deadline.is_some_and(|deadline| deadline <= due.max(Instant::now())) {
        // What is due after the end is never sent; a slow rate must not end the run early for all that.
        if let Some(deadline) = deadline.filter(|_| !stop.is_cancelled()) {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => {}
                () = stop.cancelled() => {}
            }
        }
        return false;
    }
    if due.saturating_duration_since(Instant::now()) < Duration::from_millis(1) {
        return true;
    }
    tokio::select! {
        () = tokio::time::sleep_until(due) => true,
        () = stop.cancelled() => false,
    }
}

struct Manifest {
    path: PathBuf,
    writer: BufWriter<File>,
}

impl Manifest {
    fn create(path: PathBuf) -> Result<Self> {
        match File::create(&path) {
            Ok(file) => Ok(Manifest { path, writer: BufWriter::new(file) }),
            Err(e) => Err(failed(&path, e)),
        }
    }

    fn write(&mut self, sent: &Sent) -> Result<()> {
        let line = json!({
            "message_id": sent.message_id.as_ref(),
            "kind": sent.kind.name(),
            "class": sent.class.name(),
            "topic": sent.topic.as_ref(),
            "key": sent.key.as_ref(),
            "rows": sent.rows,
            "bytes": sent.payload.len(),
            "event_time_us": sent.event_time_us,
        });
        writeln!(self.writer, "{line}").map_err(|e| failed(&self.path, e))
    }

    fn finish(mut self) -> Result<()> {
        self.writer.flush().map_err(|e| failed(&self.path, e))
    }
}

fn failed(path: &std::path::Path, e: std::io::Error) -> Error {
    Error::Failed(format!("cannot write \"{}\": {e}", path.display()))
}
