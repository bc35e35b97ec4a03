//! Deletes files that no version needs: removed longer ago than the table keeps them, or never committed at all.
//!
//! Fails closed (I14): the whole log is read first, and any doubt about it ends the run with nothing deleted. Ages are
//! differences of times that one clock gave: the store's, which stamps the files and the commits. Only tables that we
//! created are cleaned; in tables of others, others decide.

use super::compact::{StoredFile, obstacle};
use super::files::{History, file_name};
use super::table::Table;
use crate::types::error::{Error, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use parquet::arrow::async_reader::AsyncFileReader;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// What Delta says when the table does not.
pub(super) const RETENTION_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A file without a commit may be on its way into one, whatever the table's retention.
pub(super) const ORPHAN_AGE_MIN: Duration = Duration::from_secs(3600);

const DELETES_IN_FLIGHT_MAX: usize = 8;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Report {
    pub files: u64,
    pub bytes: u64,
    pub orphans: u64,
    /// Could not be deleted; the next run tries again.
    pub failed: u64,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Needed,
    /// Removed by a commit, long enough ago.
    Expired,
    /// No version names it.
    Orphan,
}

/// What decides on a file.
struct Evidence<'a> {
    history: &'a History,
    active: BTreeSet<&'a str>,
    pending: HashSet<String>,
    retention_ms: i64,
    orphan_age_min_ms: i64,
}

impl Evidence<'_> {
    /// `modified_ms` by the store's clock.
    fn verdict(&self, path: &str, modified_ms: i64) -> Verdict {
        let name = file_name(path);
        let hidden = |part: &str| part.starts_with(['_', '.']) && !part.contains('=');
        if path.split('/').any(hidden) || self.active.contains(name) || self.pending.contains(path) {
            return Verdict::Needed;
        }
        let age_of = |ms: i64| self.history.newest_ms.saturating_sub(ms);
        if let Some(removed_ms) = self.history.removed.get(path) {
            return if age_of(*removed_ms) > self.retention_ms { Verdict::Expired } else { Verdict::Needed };
        }
        let old = age_of(modified_ms) > self.retention_ms.max(self.orphan_age_min_ms);
        match old && is_ours(name) && !self.history.named.contains(name) {
            true => Verdict::Orphan,
            false => Verdict::Needed,
        }
    }
}

/// `part-00000-<uuid>-c000.zstd.parquet`, as our writer names its files.
fn is_ours(name: &str) -> bool {
    let inner = name.strip_prefix("part-").and_then(|rest| rest.strip_suffix("-c000.zstd.parquet"));
    let Some((part, id)) = inner.and_then(|inner| inner.split_once('-')) else { return false };
    part.len() == 5 && part.bytes().all(|b| b.is_ascii_digit()) && uuid::Uuid::try_parse(id).is_ok()
}

/// One run. Nothing is deleted unless the whole log could be read.
pub(super) async fn vacuum(table: &Table, orphan_age_min: Duration) -> Result<Report> {
    let log = &table.log;
    // Before the log: what is prepared later is younger than any retention.
    let pending = table.pending.snapshot();
    let mut history = History::load(log).await?;
    if history.files.version < table.last_seen().head.version {
        return Err(log.failed("the listing of its log is behind what we committed"));
    }
    if let Some(why) = why_not(&history) {
        return Err(Error::refused(
            format!("table \"{}\" is not ours to clean: {why}", log.name),
            "Let the program that owns the table vacuum it.",
        ));
    }
    let retention_ms = retention(&history.files.metadata.configuration).map_err(|e| log.failed(e))?.as_millis() as i64;
    let evidence = Evidence {
        active: history.files.active.keys().map(|path| file_name(path)).collect(),
        pending,
        retention_ms,
        orphan_age_min_ms: orphan_age_min.as_millis() as i64,
        history: &history,
    };
    let mut unneeded: BTreeMap<String, (Verdict, u64)> = BTreeMap::new();
    let mut listing = log.table.store.list(Some(&log.table.prefix));
    while let Some(object) = listing.try_next().await.map_err(|e| log.table.error("list its files", e))? {
        let Some(parts) = object.location.prefix_match(&log.table.prefix) else { continue };
        let path = parts.map(|p| p.as_ref().to_owned()).collect::<Vec<_>>().join("/");
        let verdict = evidence.verdict(&path, object.last_modified.timestamp_millis());
        if verdict != Verdict::Needed {
            unneeded.insert(path, (verdict, object.size));
        }
    }
    drop(evidence);
    // Once more: a restore of an old version adds its files again.
    for step in history.files.follow(log).await? {
        for (path, _) in step.added {
            unneeded.remove(&path);
        }
    }
    let deletes = unneeded.iter().map(|(path, (verdict, bytes))| delete(table, path, verdict, *bytes));
    let mut report = Report::default();
    let mut deletes = futures::stream::iter(deletes).buffer_unordered(DELETES_IN_FLIGHT_MAX);
    while let Some(deleted) = deletes.next().await {
        report.files += deleted.files;
        report.bytes += deleted.bytes;
        report.orphans += deleted.orphans;
        report.failed += deleted.failed;
    }
    Ok(report)
}

async fn delete(table: &Table, path: &str, verdict: &Verdict, bytes: u64) -> Report {
    let log = &table.log;
    let orphan = *verdict == Verdict::Orphan;
    let deleted = async {
        let full = log.file(path)?;
        if orphan {
            // The name alone could be another writer's that uses the same library.
            let mut file = StoredFile::new(log, full.clone(), bytes);
            let footer = file.get_metadata(None).await;
            let writer = footer.as_ref().ok().and_then(|f| f.file_metadata().created_by());
            if !writer.is_some_and(|w| w.starts_with("pipe ")) {
                return Ok(false);
            }
        }
        match log.table.store.delete(&full).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(true),
            Err(e) => Err(e),
        }
    };
    match deleted.await {
        Ok(true) => {
            tracing::debug!(table = %log.name, file = path, orphan, "deleted a file that no version needs");
            Report { files: 1, bytes, orphans: orphan as u64, failed: 0 }
        }
        Ok(false) => Report::default(),
        Err(error) => {
            tracing::warn!(table = %log.name, file = path, %error, "could not delete a file that no version needs");
            Report { failed: 1, ..Report::default() }
        }
    }
}

/// Why this table is not ours to clean. `None`: it is.
fn why_not(history: &History) -> Option<String> {
    let ours = history.files.metadata.configuration.get("pipe.keepsLog").is_some_and(|v| v == "true");
    match ours {
        false => Some("another program created the table".into()),
        true => obstacle(&history.files),
    }
}

/// How long the table keeps removed files.
fn retention(configuration: &BTreeMap<String, String>) -> Result<Duration, String> {
    let key = "delta.deletedFileRetentionDuration";
    let Some(text) = configuration.get(key) else { return Ok(RETENTION_DEFAULT) };
    interval(text).ok_or_else(|| format!("{key} = \"{text}\" is not an interval we understand"))
}

/// `interval 7 days`, `interval 1 week 12 hours`; nothing with months, which have no fixed length.
pub(super) fn interval(text: &str) -> Option<Duration> {
    let mut words = text.split_whitespace().peekable();
    words.next_if(|word| word.eq_ignore_ascii_case("interval"));
    words.peek()?;
    let mut total = Duration::ZERO;
    while let Some(number) = words.next() {
        let number: u64 = number.parse().ok()?;
        let unit = words.next()?.to_ascii_lowercase();
        let unit = match unit.strip_suffix('s').unwrap_or(&unit) {
            "millisecond" => Duration::from_millis(1),
            "second" => Duration::from_secs(1),
            "minute" => Duration::from_secs(60),
            "hour" => Duration::from_secs(3600),
            "day" => Duration::from_secs(24 * 3600),
            "week" => Duration::from_secs(7 * 24 * 3600),
            _ => return None,
        };
        total = total.checked_add(unit.checked_mul(u32::try_from(number).ok()?)?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_understood_or_nothing_is_deleted() {
        let hours = |text: &str| interval(text).map(|d| d.as_secs() / 3600);
        assert_eq!(hours("interval 48 hours"), Some(48));
        assert_eq!(hours("interval 1 week 2 days"), Some(9 * 24));
        assert_eq!(hours("7 DAYS"), Some(7 * 24));
        assert_eq!(hours("interval 0 seconds"), Some(0));
        for odd in ["", "interval", "interval 1 month", "interval -1 days", "interval 1", "P7D", "forever"] {
            assert_eq!(hours(odd), None, "{odd:?}");
        }
        let table = [("delta.deletedFileRetentionDuration".to_owned(), "interval 1 month".to_owned())].into();
        assert!(retention(&table).unwrap_err().contains("not an interval we understand"));
        assert_eq!(retention(&BTreeMap::new()), Ok(RETENTION_DEFAULT));
    }

    #[test]
    fn only_files_of_our_writer_are_recognised() {
        assert!(is_ours("part-00000-6a3ec21d-f9b0-4d6f-9e0c-0a3d1b3f1c55-c000.zstd.parquet"));
        for other in [
            "part-00000-6a3ec21d-f9b0-4d6f-9e0c-0a3d1b3f1c55-c000.snappy.parquet",
            "part-00000-6a3ec21d-f9b0-4d6f-9e0c-0a3d1b3f1c55.c000.zstd.parquet",
            "part-0-6a3ec21d-f9b0-4d6f-9e0c-0a3d1b3f1c55-c000.zstd.parquet",
            "part-00000-points-c000.zstd.parquet",
            "deletion_vector_1.bin",
            "notes.txt",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
