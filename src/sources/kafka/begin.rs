//! Where reading a partition begins, given what the record says and what the broker has.
//!
//! Pure: `topic.rs` asks the broker for the first and the next offset, and begins where it is told here.
//!
//! | the record has | the broker has | begin at |
//! |---|---|---|
//! | a position within | | the position |
//! | a position before the first | messages were purged | refused, with the missing range |
//! | a position after the end | another topic under the old name, or a log that lost its tail | refused |
//! | nothing of this topic | | `start` |
//! | other partitions of this topic | a new partition | the first: it may have been filled since it was made |

use crate::sources::kafka::config::StartAt;
use crate::types::error::{Error, Result};

/// What there is to read of a partition: `[first, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    pub first: u64,
    pub end: u64,
}

/// `name` is the partition's, for errors.
pub fn begin(name: &str, wanted: Option<u64>, topic_is_known: bool, start: StartAt, has: Available) -> Result<u64> {
    let Some(wanted) = wanted else {
        let at_the_end = start == StartAt::Latest && !topic_is_known;
        return Ok(if at_the_end { has.end } else { has.first });
    };
    if wanted < has.first {
        return Err(Error::refused(
            format!("partition \"{name}\": the messages [{wanted}, {}) were purged before they were read", has.first),
            "They are lost to this pipeline. Restore them (a backup, another cluster), or start a new chain from positions \
             that exist. A longer retention gives the pipeline more time to be down.",
        ));
    }
    if wanted > has.end {
        return Err(Error::refused(
            format!("partition \"{name}\" ends at {}, and was read up to {wanted}", has.end),
            "Was the topic deleted and made again, or the cluster replaced? Then the positions mean other messages: give the \
             new topic a new name or a new source, or start a new chain.",
        ));
    }
    Ok(wanted)
}

/// The record keeps the cluster's id; positions of one cluster mean nothing in another.
pub fn check_cluster(name: &str, recorded: Option<&str>, found: Option<&str>) -> Result<()> {
    match (recorded, found) {
        (Some(recorded), Some(found)) if recorded != found => Err(Error::refused(
            format!(
                "partition \"{name}\" was read from cluster \"{recorded}\", and these brokers are of cluster \"{found}\""
            ),
            "Point the source at the old cluster, or start a new chain with this one.",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: Option<u64>, topic_is_known: bool, start: StartAt, first: u64, end: u64) -> String {
        match begin("t/0", wanted, topic_is_known, start, Available { first, end }) {
            Ok(at) => at.to_string(),
            Err(e) => e.to_string().lines().next().unwrap_or_default().to_string(),
        }
    }

    #[test]
    fn purged_and_recreated_partitions_are_refused() {
        let (earliest, latest) = (StartAt::Earliest, StartAt::Latest);
        let purged = "partition \"t/0\": the messages [3, 5) were purged before they were read";
        assert_eq!(check(Some(3), true, earliest, 5, 9), purged);
        assert_eq!(check(Some(3), true, latest, 5, 9), purged);
        assert_eq!(check(Some(10), true, earliest, 5, 9), "partition \"t/0\" ends at 9, and was read up to 10");
        assert_eq!(check(Some(1), true, earliest, 0, 0), "partition \"t/0\" ends at 0, and was read up to 1");
    }

    #[test]
    fn a_known_position_goes_on_and_an_unknown_one_starts_where_it_is_told() {
        let (earliest, latest) = (StartAt::Earliest, StartAt::Latest);
        assert_eq!(check(Some(5), true, latest, 5, 9), "5");
        assert_eq!(check(Some(9), true, earliest, 5, 9), "9");
        assert_eq!(check(None, false, earliest, 5, 9), "5");
        assert_eq!(check(None, false, latest, 5, 9), "9");
        assert_eq!(
            check(None, true, latest, 0, 9),
            "0",
            "a new partition of a known topic is read from its first message"
        );
    }

    #[test]
    fn another_cluster_is_refused() {
        assert!(check_cluster("t/0", Some("a"), Some("b")).is_err());
        assert!(check_cluster("t/0", Some("a"), Some("a")).is_ok());
        assert!(check_cluster("t/0", None, Some("a")).is_ok());
        assert!(check_cluster("t/0", Some("a"), None).is_ok(), "a broker that does not tell is no proof");
    }
}
