//! Names of the objects under the checkpoint location. Relative to it; `engine` joins them to the store's prefix.

use crate::types::epoch::Epoch;

pub const RECORDS: &str = "records";
pub const STATE: &str = "state";

/// `records/00000000000000000042.json`: 20 digits hold every u64, so the listing's order is the chain's order.
pub fn record_path(epoch: Epoch) -> String {
    format!("{RECORDS}/{:020}.json", epoch.0)
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

/// The epoch a segment's path names. Clean-up deletes only paths that parse and that no retained record lists (I14).
pub fn segment_epoch(path: &str) -> Option<Epoch> {
    let file = path.strip_prefix(STATE)?.strip_prefix('/')?.strip_suffix(".arrow")?.rsplit_once('/')?.1;
    let digits = file.split_once('-')?.0;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Epoch)
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
        assert_eq!(segment_epoch(&path), Some(Epoch(3)));
        let odd = segment_path("a/b ~é", Epoch(3), 1, "x");
        assert_eq!(odd, "state/a~2Fb~20~7E~C3~A9/00000000000000000003-1-x.arrow");
        assert_eq!(segment_epoch(&odd), Some(Epoch(3)));
        assert_ne!(segment_path("a~20b", Epoch(1), 0, "x"), segment_path("a b", Epoch(1), 0, "x"));
        assert_eq!(segment_epoch("state/speed_1m/notes.txt"), None);
    }
}
