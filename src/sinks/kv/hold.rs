//! What may be written to a key-value table after a restart, so that readers never see a value go back (I13).
//!
//! The table ran ahead of the record: it may reflect messages up to its marker, while state begins again at the record's
//! positions. Until replay has passed the marker, state is older than the table, so the writer collects touched keys and
//! writes nothing. Then it writes every key touched since the start, or every row there is where the table cannot be
//! trusted: state is at least as new by then as the table ever was.
//!
//! Pure: marker and positions in, what to do out.
//!
//! | marker | hold until passed | then |
//! |---|---|---|
//! | none, or another chain's | nothing | rebuild |
//! | of another fingerprint | the partitions that are ahead | rebuild: the rows answer another question, perhaps in words alone |
//! | behind the record in some partition | the partitions that are ahead | rebuild: changes are missing |
//! | ahead in a partition of a source that is no longer read | the others that are ahead | rebuild: it shows what never was |
//! | not whole | the partitions that are ahead | rebuild: a catching up was cut short |
//! | ahead elsewhere | the partitions that are ahead | write the touched keys |
//! | at the record | nothing | write the touched keys |
//!
//! *Not whole* is what a crash leaves while keys are held over a record, or are written after that, or a rebuild is under
//! way: replay brings only part of the keys again, and a marker may name a message whose key was not written yet.
//! *Behind* is what a second crash while holding leaves (records went on, held keys were not written), or an old copy of
//! the directory. A writer that moves the marker to the cut's positions before each sync, unless it holds, keeps an idle
//! partition from looking so.

use crate::sinks::kv::store::Marker;
use crate::types::epoch::ChainId;
use crate::types::position::{PartitionId, Position};
use std::collections::BTreeMap;

/// What a start knows when it decides about one table.
pub struct Known<'a> {
    pub chain: &'a ChainId,
    /// Of what makes the rows: view, filter, projection.
    pub fingerprint: &'a str,
    /// Where state stands: the positions of the newest record.
    pub positions: &'a BTreeMap<PartitionId, Position>,
    /// Is this source read in this run?
    pub is_read: &'a dyn Fn(&str) -> bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// Wait for this first.
    pub hold: Hold,
    /// Then `KvTable::rebuild` with every row, instead of `apply` with the touched keys.
    pub rebuild: Option<Why>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    NoMarker,
    OtherChain,
    OtherFingerprint,
    Behind,
    SourceGone,
    Unfinished,
}

pub fn start(marker: Option<&Marker>, known: &Known<'_>) -> Start {
    let at_once = |why| Start { hold: Hold::default(), rebuild: Some(why) };
    let Some(marker) = marker else { return at_once(Why::NoMarker) };
    if marker.chain != *known.chain {
        return at_once(Why::OtherChain);
    }
    let at =
        |positions: &BTreeMap<PartitionId, Position>, p: &PartitionId| positions.get(p).copied().unwrap_or_default();
    let ahead = marker.positions.iter().filter(|(p, marked)| **marked > at(known.positions, p));
    let (passable, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
        ahead.map(|(p, marked)| (p.clone(), *marked)).partition(|(p, _)| (known.is_read)(&p.source));
    let behind = known.positions.iter().any(|(p, here)| at(&marker.positions, p) < *here);
    let rebuild = match (gone.is_empty(), behind, marker.whole) {
        _ if marker.fingerprint != known.fingerprint => Some(Why::OtherFingerprint),
        (false, ..) => Some(Why::SourceGone),
        (true, true, _) => Some(Why::Behind),
        (true, false, false) => Some(Why::Unfinished),
        (true, false, true) => None,
    };
    Start { hold: Hold { until: passable }, rebuild }
}

/// Positions to pass before anything is written. Empty: nothing to wait for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hold {
    until: BTreeMap<PartitionId, Position>,
}

impl Hold {
    /// `positions`: per partition, the next message to be folded into the state that would be written.
    pub fn is_passed(&self, positions: &BTreeMap<PartitionId, Position>) -> bool {
        self.waits_for(positions).next().is_none()
    }

    /// Partitions still short of the marker, for people.
    pub fn waits_for<'a>(
        &'a self,
        positions: &'a BTreeMap<PartitionId, Position>,
    ) -> impl Iterator<Item = (&'a PartitionId, Position)> + 'a {
        let short = |p: &PartitionId, until: Position| positions.get(p).is_none_or(|at| *at < until);
        self.until.iter().filter(move |(p, until)| short(p, **until)).map(|(p, until)| (p, *until))
    }

    /// Waits for both: for a writer that holds several tables together.
    pub fn and(&mut self, other: Hold) {
        for (partition, until) in other.until {
            let mine = self.until.entry(partition).or_default();
            *mine = (*mine).max(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::kv::store::Version;

    /// "a:3 b:5" -> positions of source s.
    fn positions(text: &str) -> BTreeMap<PartitionId, Position> {
        let parse = |part: &str| {
            let (name, at) = part.split_once(':').expect("name:position");
            let (source, name) = name.split_once('/').unwrap_or(("s", name));
            (PartitionId::new(source, name), Position(at.parse().expect("a number")))
        };
        text.split_whitespace().map(parse).collect()
    }

    /// The marker "-" is absent, one with "~" in front is not whole. Only source "s" is read.
    fn start_of(marker: &str, record: &str) -> Start {
        let chain = ChainId("c".into());
        let (whole, marker) = marker.strip_prefix('~').map_or((true, marker), |rest| (false, rest));
        let marker = (marker != "-").then(|| Marker {
            chain: chain.clone(),
            fingerprint: "f".into(),
            version: Version::default(),
            positions: positions(marker),
            whole,
        });
        let known =
            Known { chain: &chain, fingerprint: "f", positions: &positions(record), is_read: &|source| source == "s" };
        start(marker.as_ref(), &known)
    }

    #[track_caller]
    fn check(marker: &str, record: &str, expected: &str) {
        let start = start_of(marker, record);
        let waits: Vec<String> =
            start.hold.waits_for(&BTreeMap::new()).map(|(p, at)| format!("{}:{at}", p.name)).collect();
        let rebuild = start.rebuild.map_or_else(|| "write".to_string(), |why| format!("rebuild {why:?}"));
        assert_eq!(format!("[{}] {rebuild}", waits.join(" ")), expected, "marker {marker}, record {record}");
    }

    #[test]
    fn what_a_start_does() {
        check("-", "a:3", "[] rebuild NoMarker");
        check("-", "", "[] rebuild NoMarker");
        check("", "", "[] write");
        check("a:3", "a:3", "[] write");
        check("a:3 b:7", "a:3 b:7", "[] write");
        check("a:5", "a:3", "[a:5] write");
        check("a:5 b:7", "a:3 b:7", "[a:5] write");
        check("a:5 b:9", "a:3 b:7", "[a:5 b:9] write");
        check("a:5", "", "[a:5] write");
        check("a:2", "a:3", "[] rebuild Behind");
        check("", "a:3", "[] rebuild Behind");
        check("b:7", "a:3 b:7", "[] rebuild Behind");
        check("a:2 b:9", "a:3 b:7", "[b:9] rebuild Behind");
        check("~a:3", "a:3", "[] rebuild Unfinished");
        check("~a:5 b:7", "a:3 b:7", "[a:5] rebuild Unfinished");
        check("~a:2 b:9", "a:3 b:7", "[b:9] rebuild Behind");
        check("a:3 old/x:9", "a:3", "[] rebuild SourceGone");
        check("a:5 old/x:9", "a:3", "[a:5] rebuild SourceGone");
        check("a:3 old/x:9", "a:3 old/x:9", "[] write");
        // A partition the record saw at 0 and the marker does not name has nothing to reflect.
        check("a:3", "a:3 b:0", "[] write");
    }

    #[test]
    fn rows_of_another_chain_are_not_waited_for_and_those_of_another_question_are_replaced() {
        let marker = Marker {
            chain: ChainId("c".into()),
            fingerprint: "f".into(),
            version: Version::default(),
            positions: positions("a:9"),
            whole: true,
        };
        let known = |chain, fingerprint| {
            let positions = positions("a:3");
            start(
                Some(&marker),
                &Known { chain: &ChainId(chain), fingerprint, positions: &positions, is_read: &|_| true },
            )
        };
        let expected = |hold, why| Start { hold, rebuild: Some(why) };
        assert_eq!(known("other".into(), "f"), expected(Hold::default(), Why::OtherChain));
        let until = Hold { until: positions("a:9") };
        assert_eq!(known("c".into(), "g"), expected(until, Why::OtherFingerprint));
    }

    #[test]
    fn changes_flow_once_every_partition_has_passed() {
        let hold = start_of("a:5 b:9", "a:3 b:7").hold;
        for (at, passed) in [
            ("", false),
            ("a:3 b:7", false),
            ("a:5 b:7", false),
            ("a:4 b:9", false),
            ("a:100 b:8", false),
            ("b:100", false),
            ("a:5 b:9", true),
            ("a:6 b:9 c:0", true),
        ] {
            assert_eq!(hold.is_passed(&positions(at)), passed, "{at}");
        }
    }

    #[test]
    fn holding_several_tables_waits_for_the_furthest() {
        let mut hold = start_of("a:5", "a:3").hold;
        hold.and(start_of("a:4 b:2", "a:3").hold);
        hold.and(Hold::default());
        assert!(!hold.is_passed(&positions("a:4 b:2")));
        assert!(!hold.is_passed(&positions("a:5 b:1")));
        assert!(hold.is_passed(&positions("a:5 b:2")));
    }
}
