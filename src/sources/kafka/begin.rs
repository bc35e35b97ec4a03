//! Where reading a partition begins, given what the record says and what the broker has.
//!
//! Pure: `topic.rs` asks the broker for the first and the next offset, and begins where it is told here.
//!
//! | the record has | the broker has | begin at |
//! |---|---|---|
//! | a position within | | the position |
//! | a position before the first | messages were purged | refused, with the missing range; `--skip-purged`: the first |
//! | a position after the end | another topic under the old name, or a log that lost its tail | refused |
//! | nothing of this topic | | `start` |
//! | other partitions of this topic | a new partition | the first: it may have been filled since it was made |
//! | another cluster, or another topic id | | refused, see `check_origin` |

use crate::sources::kafka::config::StartAt;
use crate::types::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What there is to read of a partition: `[first, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    pub first: u64,
    pub end: u64,
}

/// The ways out when recorded positions mean nothing any more, each followed to its end by tests/e2e/topics.py.
const GO_ON: &str = "To go on with what is there now, rename the source in the config and in the SQL: tables go on, \
                     materialized views that read it start empty (`pipe validate --diff` says which). If the messages can \
                     come in a topic of another name, write that one under \"topics\" instead: views go on too. Either is \
                     read from `start`, and what the lake has of it already comes twice. To begin again from nothing, give \
                     the sinks a new uri and the pipeline a new data_dir (and checkpoint location, if it has one).";

/// `name` is the partition's, for errors.
pub fn begin(name: &str, wanted: Option<u64>, topic_is_known: bool, start: StartAt, has: Available) -> Result<u64> {
    let Some(wanted) = wanted else {
        let at_the_end = start == StartAt::Latest && !topic_is_known;
        return Ok(if at_the_end { has.end } else { has.first });
    };
    if wanted < has.first {
        return Err(Error::refused(
            format!("partition \"{name}\": the messages [{wanted}, {}) were purged before they were read", has.first),
            "They are lost to this pipeline. `pipe serve --skip-purged` goes on behind them. A longer retention gives the \
             pipeline more time to be down.",
        ));
    }
    if wanted > has.end {
        return Err(Error::refused(
            format!("partition \"{name}\" ends at {}, and was read up to {wanted}", has.end),
            format!(
                "Was the topic deleted and made again, or the cluster replaced? Then the positions mean other messages. {GO_ON}"
            ),
        ));
    }
    Ok(wanted)
}

/// Where positions mean something; the record keeps it with each partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub cluster: Option<String>,
    /// The topic's id; none in records of before, and of brokers that know no ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// Positions of one cluster mean nothing in another, and those of a topic nothing in one made anew under its name. A broker
/// that does not tell is no proof.
pub fn check_origin(name: &str, recorded: &Origin, found: &Origin) -> Result<()> {
    if let (Some(recorded), Some(found)) = (&recorded.cluster, &found.cluster)
        && recorded != found
    {
        return Err(Error::refused(
            format!(
                "partition \"{name}\" was read from cluster \"{recorded}\", and these brokers are of cluster \"{found}\""
            ),
            format!("Point the source at the old cluster if it is still there. {GO_ON}"),
        ));
    }
    if let (Some(recorded), Some(found)) = (&recorded.topic, &found.topic)
        && recorded != found
    {
        let topic = name.rsplit_once('/').map_or(name, |(topic, _)| topic);
        return Err(Error::refused(
            format!(
                "topic \"{topic}\" was deleted and made again: partition \"{name}\" was read with topic id {recorded}, and it is {found} now"
            ),
            format!(
                "Its positions mean other messages now, and what the old topic had and was not read is lost. {GO_ON}"
            ),
        ));
    }
    Ok(())
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
    fn another_cluster_or_topic_is_refused() {
        let origin = |cluster: &str, topic: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_string());
            Origin { cluster: some(cluster), topic: some(topic) }
        };
        let check = |recorded, found| match check_origin("t/0", &recorded, &found) {
            Ok(()) => "ok".to_string(),
            Err(e) => e.to_string().lines().next().unwrap_or_default().to_string(),
        };
        let said = check(origin("a", ""), origin("b", ""));
        assert_eq!(said, "partition \"t/0\" was read from cluster \"a\", and these brokers are of cluster \"b\"");
        let said = check(origin("a", "x"), origin("a", "y"));
        assert_eq!(
            said,
            "topic \"t\" was deleted and made again: partition \"t/0\" was read with topic id x, and it is y now"
        );
        assert_eq!(check(origin("a", "x"), origin("a", "x")), "ok");
        assert_eq!(check(origin("", ""), origin("a", "x")), "ok");
        assert_eq!(check(origin("a", "x"), origin("", "")), "ok", "a broker that does not tell is no proof");
    }

    #[test]
    fn origins_of_older_records_are_read() {
        let of = |json: serde_json::Value| Origin::deserialize(&json).expect("an origin");
        assert_eq!(of(serde_json::json!({ "cluster": "a" })), Origin { cluster: Some("a".into()), topic: None });
        let now = Origin { cluster: Some("a".into()), topic: Some("x".into()) };
        assert_eq!(of(serde_json::to_value(&now).expect("plain data")), now);
    }
}
