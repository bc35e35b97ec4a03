//! Which files to put together next: a bin of small ones of one partition, in the order they were committed.
//!
//! Pure. Files of about one size are put together when there are enough of them, so a row is rewritten once per size
//! class and not once per bin; what is left in a partition that nothing is written to any more is put together whatever
//! its sizes. A full bin's file is never small again, so this comes to an end.

use super::files::DataFile;
use std::collections::{BTreeMap, BTreeSet};

/// Inputs of one bin. Reading is one file after the other, so it bounds the commit and the time until the next bin.
const FILES_PER_BIN_MAX: usize = 128;

/// Upper end of the smallest size class; each next one reaches eight times as far.
const SMALLEST_CLASS_BYTES: u64 = 16 * 1024;
const CLASS_FACTOR: u64 = 8;

/// What a row counts at least. Rows that hardly differ compress to next to nothing: by bytes alone their files would never
/// leave the smallest classes, and all rows of the table be rewritten for every few that come.
const ROW_BYTES_MIN: u64 = 16;

/// No new file for so long: the partition's day is over.
const QUIET_MS: i64 = 3_600_000;

/// In a quiet partition a file this much larger than all smaller ones together is left alone: a few late rows must not
/// rewrite a whole day every hour.
const LARGE_FACTOR: u64 = 8;

#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub target_bytes: u64,
    pub files_min: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bin {
    pub partition: Vec<Option<String>>,
    pub inputs: Vec<(String, DataFile)>,
}

impl Bin {
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().map(|(_, f)| f.bytes).sum()
    }
}

/// The work it is to rewrite a file, in bytes.
fn weight(file: &DataFile) -> u64 {
    file.bytes.max(file.rows.unwrap_or_default().saturating_mul(ROW_BYTES_MIN))
}

fn class(bytes: u64) -> u32 {
    let mut class = 0;
    let mut end = SMALLEST_CLASS_BYTES;
    while bytes >= end && class < 16 {
        end = end.saturating_mul(CLASS_FACTOR);
        class += 1;
    }
    class
}

type Entry<'a> = (&'a String, &'a DataFile);

/// The bin that takes most files away; `None`: nothing is worth it. `unfit` names files that could not be read.
pub(super) fn next_bin(
    active: &BTreeMap<String, DataFile>,
    unfit: &BTreeSet<String>,
    rule: Rule,
    now_ms: i64,
) -> Option<Bin> {
    let mut partitions: BTreeMap<&[Option<String>], Vec<Entry>> = BTreeMap::new();
    for (path, file) in active {
        // Half the target: two of them fit. Paths with a scheme belong to other tables (shallow clones).
        let small = weight(file) <= rule.target_bytes / 2 && !file.has_deletions && !path.contains("://");
        if small && !unfit.contains(path) {
            partitions.entry(&file.partition).or_default().push((path, file));
        }
    }
    let bins = partitions.into_iter().filter_map(|(partition, mut files)| {
        files.sort_by_key(|(path, f)| (f.modified_ms, *path));
        let newest = files.last().map_or(i64::MIN, |(_, f)| f.modified_ms);
        let chosen = match now_ms.saturating_sub(newest) > QUIET_MS {
            true => leftovers(files, rule),
            false => crowded_class(files, rule),
        };
        let inputs = chosen.into_iter().map(|(p, f)| (p.clone(), f.clone())).collect();
        Some(Bin { partition: partition.to_vec(), inputs }).filter(|bin| bin.inputs.len() >= 2)
    });
    bins.max_by_key(|bin| bin.inputs.len())
}

/// The oldest files of the size class that has most of them, if those are enough.
fn crowded_class<'a>(files: Vec<Entry<'a>>, rule: Rule) -> Vec<Entry<'a>> {
    let mut classes: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
    for file in files {
        classes.entry(class(weight(file.1))).or_default().push(file);
    }
    let crowded = classes.into_values().filter(|files| files.len() >= rule.files_min).max_by_key(Vec::len);
    fill(crowded.unwrap_or_default(), rule)
}

/// Everything small, but for files that are large beside the rest.
fn leftovers<'a>(mut files: Vec<Entry<'a>>, rule: Rule) -> Vec<Entry<'a>> {
    files.sort_by_key(|(path, f)| (weight(f), *path));
    let mut rest: u64 = files.iter().map(|(_, f)| weight(f)).sum();
    while let Some((_, largest)) = files.last() {
        rest -= weight(largest);
        if weight(largest) <= rest.saturating_mul(LARGE_FACTOR) {
            break;
        }
        files.pop();
    }
    let mut chosen = fill(files, rule);
    chosen.sort_by_key(|(path, f)| (f.modified_ms, *path));
    chosen
}

fn fill<'a>(files: Vec<Entry<'a>>, rule: Rule) -> Vec<Entry<'a>> {
    let mut bytes = 0;
    files
        .into_iter()
        .take(FILES_PER_BIN_MAX)
        .take_while(|(_, f)| {
            bytes += weight(f);
            bytes <= rule.target_bytes
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    const RULE: Rule = Rule { target_bytes: 128 * MIB, files_min: 4 };

    /// Files named by their size in KiB and their time: "100@7".
    fn table(files: &str) -> BTreeMap<String, DataFile> {
        let mut active = BTreeMap::new();
        for (i, text) in files.split_whitespace().enumerate() {
            let (partition, rest) = text.split_once('/').unwrap_or(("", text));
            let (kib, ms) = rest.split_once('@').unwrap();
            let file = DataFile {
                written_as: None,
                partition: vec![Some(partition.to_owned())],
                bytes: kib.parse::<u64>().unwrap() * KIB,
                modified_ms: ms.parse().unwrap(),
                rows: Some(1),
                has_deletions: false,
            };
            active.insert(format!("{text}#{i}"), file);
        }
        active
    }

    fn chosen(files: &str, now_ms: i64) -> String {
        let bin = next_bin(&table(files), &BTreeSet::new(), RULE, now_ms);
        let names = bin.iter().flat_map(|b| &b.inputs).map(|(p, _)| p.split('#').next().unwrap().to_owned());
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn too_few_files_are_left_alone() {
        assert_eq!(chosen("", 0), "");
        assert_eq!(chosen("100@1 100@2 100@3", 10), "");
        assert_eq!(chosen("1@1 100@2 2000@3 20000@4 60000@5", 10), "", "each of another size");
        assert_eq!(chosen("a/100@1 b/100@2 a/100@3 b/100@4 c/100@5", 10), "", "each partition for itself");
        assert_eq!(chosen("70000@1 70000@2 70000@3 70000@4", 10), "", "two of them would not fit the target");
    }

    #[test]
    fn files_of_one_size_go_together_in_their_order() {
        assert_eq!(chosen("100@4 100@2 90@3 100@1 3000@0", 10), "100@1 100@2 90@3 100@4");
        assert_eq!(chosen("a/9@4 b/9@2 a/9@3 b/9@1 a/9@1 a/9@2", 10), "a/9@1 a/9@2 a/9@3 a/9@4");
        assert_eq!(chosen("60000@1 60000@2 60000@3 60000@4", 10), "60000@1 60000@2", "as many as the target holds");
    }

    #[test]
    fn a_quiet_partition_keeps_only_what_is_large() {
        let later = 2 * QUIET_MS;
        assert_eq!(chosen("100@1 3000@2 90@3", later), "100@1 90@3");
        assert_eq!(chosen("60000@1 9@2", later), "", "late rows do not rewrite a day");
        assert_eq!(chosen("60000@1 9000@2", later), "60000@1 9000@2");
        assert_eq!(chosen("5@1", later), "");
    }

    #[test]
    fn files_with_deletions_of_other_tables_and_unfit_ones_stay_out() {
        let mut active = table("9@1 9@2 9@3 9@4");
        let names: Vec<String> = active.keys().cloned().collect();
        active.get_mut(&names[0]).unwrap().has_deletions = true;
        assert_eq!(next_bin(&active, &BTreeSet::new(), RULE, 10), None);
        let unfit = [names[1].clone()].into();
        assert_eq!(next_bin(&table("9@1 9@2 9@3 9@4"), &unfit, RULE, 10), None);
    }

    /// A table written to for weeks: the files stay few, and a row is rewritten a few times only.
    #[test]
    fn tens_of_thousands_of_commits_leave_few_files_at_little_cost() {
        let (active, rewritten) = weeks(|i| 20 * KIB + (i * 7_919) % (100 * KIB), |bytes| bytes);
        let full = 20_000 * 70 / (64 * KIB) as usize;
        assert!(active <= 5 * 16 + full, "{active} files at most, {full} of them full");
        assert!(rewritten < 4.0, "every row was rewritten {rewritten} times");
    }

    /// As above, with rows that hardly differ: whatever is put together, its file is hardly larger than one of them.
    #[test]
    fn rows_that_compress_to_nothing_are_not_rewritten_more_often() {
        let (active, rewritten) = weeks(|_| 10 * KIB, |bytes| 10 * KIB + bytes / 100);
        assert!(active <= 5 * 16, "{active} files at most");
        assert!(rewritten < 4.0, "every row was rewritten {rewritten} times");
    }

    /// 20,000 commits of 500 rows, each of so many bytes; what is put together has `merged` bytes. The most files there
    /// were, and how often a row was rewritten.
    fn weeks(bytes_of: impl Fn(u64) -> u64, merged: impl Fn(u64) -> u64) -> (usize, f64) {
        let rule = Rule { target_bytes: 128 * MIB, files_min: 16 };
        let (mut active, mut rewritten, mut most) = (BTreeMap::new(), 0, 0);
        for i in 0..20_000 {
            let file = DataFile {
                written_as: None,
                partition: vec![],
                bytes: bytes_of(i),
                modified_ms: i as i64,
                rows: Some(500),
                has_deletions: false,
            };
            active.insert(format!("f{i}"), file.clone());
            while let Some(bin) = next_bin(&active, &BTreeSet::new(), rule, i as i64) {
                for (path, _) in &bin.inputs {
                    active.remove(path);
                }
                let rows = bin.inputs.iter().filter_map(|(_, f)| f.rows).sum();
                rewritten += rows;
                let modified_ms = bin.inputs.last().unwrap().1.modified_ms;
                let output = DataFile { bytes: merged(bin.bytes()), modified_ms, rows: Some(rows), ..file.clone() };
                active.insert(format!("c{i}-{}", bin.inputs[0].0), output);
            }
            most = most.max(active.len());
        }
        (most, rewritten as f64 / (20_000.0 * 500.0))
    }
}
