//! What each lake table has been filled with, and since when: the evidence that a table holds all rows of the chain.
//!
//! Pure. The first record and every claim compare what the statements put into tables now with what the record before
//! says; a column that comes about in another way begins anew. Records of epochs carry it on unchanged.

use crate::checkpoint::record::{ColumnFeed, FeedRecord, Record};
use crate::types::epoch::Epoch;
use std::collections::BTreeMap;

/// What one statement alone puts into a table: by column a digest over how it comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feeding<'a> {
    pub sink: &'a str,
    pub table: &'a str,
    pub columns: &'a BTreeMap<String, String>,
}

/// Of the first record of a chain: everything from the beginning.
pub fn first_feeds(now: &[Feeding]) -> Vec<FeedRecord> {
    now.iter().map(|feeding| since(feeding, |_, _| Epoch(1))).collect()
}

/// Of the claim after `head`. While nothing has been read, nothing can have been missed.
pub fn next_feeds(head: &Record, now: &[Feeding]) -> Vec<FeedRecord> {
    if !head.has_read() {
        return first_feeds(now);
    }
    let of = |feeding: &Feeding| {
        let before = head.feed(feeding.sink, feeding.table);
        since(feeding, |column, print| match before.and_then(|b| b.columns.get(column)) {
            Some(known) if known.print == print => known.since,
            _ => head.epoch.next(),
        })
    };
    now.iter().map(of).collect()
}

fn since(feeding: &Feeding, since: impl Fn(&str, &str) -> Epoch) -> FeedRecord {
    let columns = feeding
        .columns
        .iter()
        .map(|(column, print)| (column.clone(), ColumnFeed { print: print.clone(), since: since(column, print) }));
    FeedRecord { sink: feeding.sink.to_string(), table: feeding.table.to_string(), columns: columns.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::next::{Cut, claim_record, first_record, next_record};
    use crate::checkpoint::testing::{author, chain, empty_cut, moved};

    fn shown(feeds: &[FeedRecord]) -> String {
        let column = |(name, feed): (&String, &ColumnFeed)| format!("{name}={}@{}", feed.print, feed.since);
        let table = |f: &FeedRecord| {
            format!("{}.{}: {}", f.sink, f.table, f.columns.iter().map(column).collect::<Vec<_>>().join(" "))
        };
        feeds.iter().map(table).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_column_counts_from_when_it_is_filled_as_it_is_now() {
        let columns = |text: &str| -> BTreeMap<String, String> {
            let pair = |p: &str| p.split_once('=').map(|(c, print)| (c.to_string(), print.to_string()));
            text.split(' ').filter_map(pair).collect()
        };
        let mut head = first_record(chain("a"), "fleet", author("1"));
        let mut check = |read: u64, points: &str, expected: &str| {
            let at = head.partitions.first().map_or(0, |p| p.span.to.0);
            let cut = Cut { partitions: vec![moved("p", at, at + read)], ..empty_cut(head.epoch.0) };
            let before = head.feeds.clone();
            head = next_record(&head, author("2"), cut);
            assert_eq!(head.feeds, before, "an epoch carries them on");
            let columns = columns(points);
            let now = Feeding { sink: "lake", table: "points", columns: &columns };
            let now = if columns.is_empty() { vec![] } else { vec![now] };
            let feeds = next_feeds(&head, &now);
            head = claim_record(&head, author("3"), vec![]);
            head.feeds = feeds;
            assert_eq!(shown(&head.feeds), expected);
        };
        check(0, "t=1 v=2", "lake.points: t=1@1 v=2@1");
        check(0, "t=1 v=9 w=3", "lake.points: t=1@1 v=9@1 w=3@1"); // nothing was read yet
        check(5, "t=1 v=9 w=3", "lake.points: t=1@1 v=9@1 w=3@1");
        check(5, "t=1 v=2", "lake.points: t=1@1 v=2@9");
        check(5, "t=1 v=2 w=3", "lake.points: t=1@1 v=2@9 w=3@11");
        check(5, "", "");
        check(5, "t=1", "lake.points: t=1@15"); // between, rows went by
    }
}
