//! Names of the objects under the checkpoint location. Relative to it; `engine` joins them to the store's prefix.

use crate::types::epoch::Epoch;

pub const RECORDS: &str = "records";
pub const STATE: &str = "state";

/// `records/00000000000000000042.json`: 20 digits hold every u64, so the listing's order is the chain's order.
pub fn record_path(epoch: Epoch) -> String {
    format!("{RECORDS}/{:020}.json", epoch.0)
}

/// Where a record goes that turned out not to be part of the chain. The checksum keeps two of one name apart.
pub fn left_over_path(epoch: Epoch, crc32: u32) -> String {
    format!("left_over/{:020}-{crc32:08x}.json", epoch.0)
}

/// The epoch a record's path names, relative to the checkpoint location. None: not a record's name, and no evidence.
pub fn record_epoch(path: &str) -> Option<Epoch> {
    let digits = path.strip_prefix(RECORDS)?.strip_prefix('/')?.strip_suffix(".json")?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Epoch)
}

/// `state/<view>/<epoch>-<slot>-<attempt>.arrow`. The attempt keeps a process that has been fenced from overwriting the
/// segment of the one that fenced it.
pub fn segment_path(view: &str, epoch: Epoch, slot: u32, attempt: &str) -> String {
    format!("{STATE}/{}/{:020}-{slot}-{}.arrow", escape(view), epoch.0, escape(attempt))
}

/// What a segment's path says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentName<'a> {
    /// As it stands in the path.
    pub view: &'a str,
    pub epoch: Epoch,
    pub slot: u32,
    pub attempt: &'a str,
}

/// None: not the name of a segment. Clean-up deletes only what it understands (I14).
pub fn segment_name(path: &str) -> Option<SegmentName<'_>> {
    let (view, file) = path.strip_prefix(STATE)?.strip_prefix('/')?.split_once('/')?;
    let mut parts = file.strip_suffix(".arrow")?.splitn(3, '-');
    let (digits, slot, attempt) = (parts.next()?, parts.next()?, parts.next()?);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_escaped =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-~".contains(&b));
    if digits.len() != 20 || !is_number(digits) || !is_number(slot) || !is_escaped(view) || !is_escaped(attempt) {
        return None;
    }
    Some(SegmentName { view, epoch: Epoch(digits.parse().ok()?), slot: slot.parse().ok()?, attempt })
}

/// View names may be quoted identifiers with any character; object names may not. `~XX` because stores treat `%XX` in
/// different ways. Injective: `~` itself is escaped.
fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            out.push(byte as char);
        } else {
            out.push_str(&format!("~{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_records_own_name_parses() {
        for (path, expected) in [
            ("records/00000000000000000042.json", Some(42)),
            ("records/18446744073709551615.json", Some(u64::MAX)),
            ("records/18446744073709551616.json", None), // one above u64
            ("records/42.json", None),
            ("records/00000000000000000042.json.tmp", None),
            ("records/0000000000000000004x.json", None),
            ("records/+0000000000000000042.json", None),
            ("records/old/00000000000000000042.json", None),
            ("00000000000000000042.json", None),
            ("state/00000000000000000042.json", None),
        ] {
            assert_eq!(record_epoch(path), expected.map(Epoch), "{path}");
        }
        assert_eq!(record_epoch(&record_path(Epoch(7))), Some(Epoch(7)));
    }

    #[test]
    fn names_sort_as_epochs_do() {
        assert!(record_path(Epoch(9)) < record_path(Epoch(10)));
        assert!(record_path(Epoch(99_999)) < record_path(Epoch(u64::MAX)));
    }

    #[test]
    fn a_segment_of_any_view_has_a_plain_name() {
        let path = segment_path("speed_1m", Epoch(3), 1, "a-1");
        assert_eq!(path, "state/speed_1m/00000000000000000003-1-a-1.arrow");
        let name = SegmentName { view: "speed_1m", epoch: Epoch(3), slot: 1, attempt: "a-1" };
        assert_eq!(segment_name(&path), Some(name));
        let odd = segment_path("a/b ~é", Epoch(3), 1, "x");
        assert_eq!(odd, "state/a~2Fb~20~7E~C3~A9/00000000000000000003-1-x.arrow");
        assert_eq!(segment_name(&odd).map(|n| n.epoch), Some(Epoch(3)));
        assert_ne!(segment_path("a~20b", Epoch(1), 0, "x"), segment_path("a b", Epoch(1), 0, "x"));
    }

    #[test]
    fn only_a_segments_own_name_parses() {
        for path in [
            "state/speed_1m/notes.txt",
            "state/speed_1m/00000000000000000003-1-a.arrow.tmp",
            "state/speed_1m/00000000000000000003-1.arrow",
            "state/speed_1m/00000000000000000003-1-.arrow",
            "state/speed_1m/00000000000000000003-x-a.arrow",
            "state/speed_1m/00000000000000000003--a.arrow",
            "state/speed_1m/3-1-a.arrow",
            "state/speed_1m/18446744073709551616-1-a.arrow",
            "state/speed_1m/old/00000000000000000003-1-a.arrow",
            "state/00000000000000000003-1-a.arrow",
            "state//00000000000000000003-1-a.arrow",
            "records/speed_1m/00000000000000000003-1-a.arrow",
        ] {
            assert_eq!(segment_name(path), None, "{path}");
        }
    }
}
