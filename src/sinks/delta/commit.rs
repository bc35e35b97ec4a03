//! The commit loop: one epoch's Adds and its transaction become the next version of the log, exactly once.
//!
//! A put that fails says nothing: it may have landed, it may land later, another writer may have taken the version. So
//! every failure is answered the same way: read on in the log, and look for our own transaction there.
//!
//! | after a failed put the log shows        | then                                                            |
//! |-----------------------------------------|-----------------------------------------------------------------|
//! | our transaction at this epoch or later  | it landed: done                                                 |
//! | commits of others                       | the same Adds go under the next version (a blind append rebases)|
//! | a change of schema that keeps our columns | as above                                                      |
//! | a change that does not, or of protocol  | Refused: a human must choose                                    |
//! | nothing new                             | the same version again, after a pause; then Unavailable         |
//!
//! A late put of an attempt we gave up on targets a version that is ours or taken by then: at most one lands.

use super::files::path_of_add;
use super::log::{Changes, Commit, Head, Metadata};
use super::schema::{Misfit, merge, still_holds};
use super::table::{Landing, Table};
use crate::env::store::PutOutcome;
use crate::types::epoch::Epoch;
use crate::types::error::{Error, Result};
use crate::types::invariant;
use serde_json::Value;
use std::time::Duration;

/// Puts that fail while the log stands still; after them the caller hears of it, and calls again.
const FAILURES_MAX: u32 = 6;

/// Puts that find their version taken. Another writer would have to commit as often as we try.
const REBASES_MAX: u32 = 100;

/// A hung connection must not hold the table for long: a commit is a small object.
pub(super) const PUT_TIMEOUT: Duration = Duration::from_secs(30);

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Not having looked at the log for longer, its next version may have been written, checkpointed and cleaned away by
/// others, and its name be free again. No retention is nearly that short.
const LOG_FRESH_FOR: Duration = Duration::from_secs(60);

pub(super) async fn apply(table: &Table, epoch: Epoch, landing: &Landing) -> Result<()> {
    if landing.adds.is_empty() {
        return Ok(());
    }
    land(table, epoch, landing).await?;
    // From now on the log says what becomes of them.
    let paths = landing.adds.iter().map(path_of_add).collect::<Result<Vec<_>>>()?;
    table.pending.remove(paths.iter().map(String::as_str));
    Ok(())
}

async fn land(table: &Table, epoch: Epoch, landing: &Landing) -> Result<()> {
    let _one_at_a_time = table.commit.lock().await;
    freshen(table).await?;
    let mut failures = 0;
    for _ in 0..REBASES_MAX {
        let seen = table.last_seen();
        let grown = match is_applied(&seen.head, epoch, landing) {
            true => break,
            false => grow(table, &seen.head, landing)?,
        };
        let version = seen.head.version + 1;
        let commit = Commit {
            app_id: &landing.app_id,
            epoch: epoch.0,
            read_version: seen.head.version,
            adds: &landing.adds,
            metadata: grown.as_ref(),
            now_ms: table.clock.now_us() / 1000,
        };
        let failure = match tokio::time::timeout(PUT_TIMEOUT, table.log.write(version, commit.text())).await {
            Ok(Ok(PutOutcome::Created)) => {
                landed(table, version, epoch, landing, grown)?;
                return Ok(());
            }
            Ok(Ok(PutOutcome::AlreadyExists)) => Error::Unavailable(format!("version {version} was taken")),
            Ok(Err(error)) => error,
            Err(_) => Error::Unavailable(format!("no answer within {} s", PUT_TIMEOUT.as_secs())),
        };
        if follow(table).await?.commits > 0 {
            continue;
        }
        failures += 1;
        if failures == FAILURES_MAX || !failure.is_retriable() {
            return Err(failure.context(format!("table \"{}\": epoch {epoch} is not committed", table.log.name)));
        }
        tokio::time::sleep(pause(failures)).await;
    }
    if !is_applied(&table.last_seen().head, epoch, landing) {
        let what = format!("table \"{}\": other writers commit faster than epoch {epoch} can", table.log.name);
        return Err(Error::Unavailable(what));
    }
    Ok(())
}

fn is_applied(head: &Head, epoch: Epoch, landing: &Landing) -> bool {
    head.transactions.get(&landing.app_id).is_some_and(|version| *version >= epoch.0 as i64)
}

fn landed(table: &Table, version: u64, epoch: Epoch, landing: &Landing, grown: Option<Metadata>) -> Result<()> {
    let mut head = table.last_seen().head.clone();
    head.version = version;
    if let Some(metadata) = grown {
        head.metadata = metadata;
    }
    let before = head.transactions.insert(landing.app_id.clone(), epoch.0 as i64);
    invariant::check(&invariant::I7, before < Some(epoch.0 as i64), || {
        format!("epoch {epoch} of {} was committed over {before:?}", landing.app_id)
    });
    table.see(head)
}

/// The table's metadata with what the landing's schema action adds to it; `None`: nothing, or it is there already.
/// Merged, not replaced: another writer may have added columns since the record was written.
fn grow(table: &Table, head: &Head, landing: &Landing) -> Result<Option<Metadata>> {
    let Some(action) = &landing.schema_action else { return Ok(None) };
    let wanted = Metadata::parse(action.clone())
        .map_err(|e| table.log.failed(format_args!("the record's schema action cannot be read: {e}")))?;
    if wanted.id != head.metadata.id {
        return Err(table.log.refused(Misfit {
            what: format!("the record was made for the table {}, this is {}", wanted.id, head.metadata.id),
            hint: "The table was replaced underneath; put the old one back, or start a new chain.".into(),
        }));
    }
    let grown = merge(&head.metadata.schema, &wanted.schema).map_err(|m| table.log.refused(m))?;
    Ok(grown.map(|schema: Value| head.metadata.with_schema(schema)))
}

/// Reads the log to its end and publishes it.
pub(super) async fn follow(table: &Table) -> Result<Changes> {
    let before = table.metadata();
    let mut head = table.last_seen().head.clone();
    let changes = table.log.follow(&mut head).await?;
    if changes.metadata {
        still_fits(table, &before, &head.metadata)?;
    }
    table.see(head)?;
    Ok(changes)
}

/// To be called before a commit, under the commit lock.
pub(super) async fn freshen(table: &Table) -> Result<()> {
    match table.last_seen().at.elapsed() > LOG_FRESH_FOR {
        true => catch_up(table).await,
        false => Ok(()),
    }
}

/// After a long pause: as `follow`, but notices when the log was cleaned beyond where we stand.
pub(super) async fn catch_up(table: &Table) -> Result<()> {
    if !table.log.has_hole_after(table.last_seen().head.version).await? {
        return follow(table).await.map(|_| ());
    }
    let before = table.metadata();
    let Some(head) = table.log.load().await? else {
        return Err(Error::refused(
            format!("table \"{}\" ({}) is gone", table.log.name, table.log.table.display),
            "Put it back from a copy, or start a new chain.",
        ));
    };
    still_fits(table, &before, &head.metadata)?;
    table.see(head)
}

fn still_fits(table: &Table, before: &Metadata, now: &Metadata) -> Result<()> {
    let refused = |what: &str| {
        table.log.refused(Misfit { what: what.into(), hint: "Undo the change, or deliver into a new table.".into() })
    };
    if now.id != before.id {
        return Err(refused("another writer replaced the table"));
    }
    if now.partition_by != before.partition_by {
        return Err(refused("another writer changed the partition columns"));
    }
    still_holds(&before.schema, &now.schema).map_err(|m| table.log.refused(m))
}

/// Doubles up to a bound, jittered so that two writers do not meet again.
pub(super) fn pause(failures: u32) -> Duration {
    let full = (PAUSE_MIN * 2u32.pow(failures.min(10))).min(PAUSE_MAX);
    full.mul_f64(rand::random_range(0.5..1.0))
}
