//! What changes a view's fingerprint and what does not: pairs of pipelines.

use super::why_changed;
use crate::sql::testing::compile_text;

const TABLES: &str = "CREATE TABLE t (id TEXT NOT NULL, n INT, at TIMESTAMP, p STRUCT<lat DOUBLE, lon DOUBLE>);
CREATE TABLE u (id TEXT NOT NULL, kind TEXT) WITH (source = 'status', route = (type = 'a'));
CREATE VIEW w AS SELECT * FROM t WHERE n > 0;
";

/// The fingerprint of the only materialized view.
fn print(text: &str) -> String {
    let plan = compile_text(text).unwrap_or_else(|e| panic!("{e}\nof\n{text}"));
    assert_eq!(plan.views.len(), 1);
    plan.views[0].fingerprint.clone()
}

/// `from` becomes `to` in the tables or the view.
#[track_caller]
fn check(view: &str, from: &str, to: &str, same: bool) {
    let before = format!("{TABLES}CREATE MATERIALIZED VIEW v AS {view};");
    let after = before.replace(from, to);
    assert_ne!(before, after, "nothing was replaced");
    let (before, after) = (print(&before), print(&after));
    assert_eq!(before == after, same, "{view}: {from} -> {to}\n{before}\n{after}");
}

const SUM: &str = "SELECT id, sum(n) AS s FROM w GROUP BY id";
const LATEST: &str = "SELECT DISTINCT ON (id) id, at, n FROM t ORDER BY id, at DESC";

#[test]
fn what_is_read_counts() {
    for view in [SUM, LATEST] {
        check(view, "n INT", "n BIGINT", false);
        check(view, "id TEXT NOT NULL, n", "id TEXT, n", false);
    }
    check(SUM, "n > 0", "n > 1", false);
    check(SUM, "sum(n)", "max(n)", false);
    check(SUM, "sum(n)", "sum(n) FILTER (WHERE n < 9)", false);
    check(SUM, "sum(n)", "sum(n) + 1", false);
    check(SUM, "AS s", "AS total", false);
    check(SUM, "GROUP BY id", "GROUP BY id HAVING sum(n) > 3", false);
    check(LATEST, "FROM t ORDER", "FROM t WHERE n < 90 ORDER", false);
    check(LATEST, "at DESC", "at", false);
    check(LATEST, "id, at, n", "id, at", false);
    check(LATEST, "at DESC", "at DESC, n DESC", false);
    let routed = "SELECT id, count(*) AS c FROM u GROUP BY id";
    check(routed, "type = 'a'", "type = 'b'", false);
    check(routed, "source = 'status'", "source = 'kinematic'", false);
    let nested = "SELECT id, max(p['lat']) AS lat FROM t GROUP BY id";
    check(nested, "lat DOUBLE", "lat REAL", false);
    let units = "SELECT id, max(at) AS at FROM t GROUP BY id";
    check(units, "FROM t GROUP", "FROM w GROUP", false);
}

#[test]
fn what_is_not_read_does_not() {
    for view in [SUM, LATEST] {
        check(view, "n INT,", "n INT, more TEXT,", true);
        check(view, "id TEXT NOT NULL, n", "front JSON, id TEXT NOT NULL, n", true);
        check(view, ", p STRUCT<lat DOUBLE, lon DOUBLE>", "", true);
        check(view, "lon DOUBLE", "lon REAL", true);
        check(view, "kind TEXT", "kind INT", true);
        check(view, "type = 'a'", "type = 'b'", true);
    }
    check(LATEST, "n > 0", "n > 1", true);
    check(SUM, "CREATE VIEW w", "INSERT INTO lake.w SELECT * FROM w; CREATE VIEW w", true);
}

#[test]
fn what_can_be_told_of_a_change() {
    let now = print(&format!("{TABLES}CREATE MATERIALIZED VIEW v AS {SUM};"));
    let digest = now.rsplit('-').next().expect("a digest");
    assert!(now.starts_with("2-") && digest.len() == 64, "{now}");
    assert!(why_changed(digest, &now).contains("format 1 and not 2"));
    assert!(why_changed(&format!("2-54.0.0-{digest}"), &now).starts_with("DataFusion went from 54.0.0 to "));
    assert!(why_changed(&now.replace(digest, "00"), &now).starts_with("its query"));
}
