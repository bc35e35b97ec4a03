//! Which tables serve which views, and why others do not; and when a column counts as filled in another way.

use crate::sql::plan::{OriginSource, Plan};
use crate::sql::testing::compile_text;
use std::collections::BTreeMap;

const TABLES: &str = "CREATE TABLE t (id TEXT NOT NULL, n INT, at TIMESTAMP, tags TEXT[]);
CREATE TABLE u (id TEXT NOT NULL, n INT);
CREATE VIEW w AS SELECT id, n, at, tags FROM t WHERE n > 0;
CREATE VIEW many AS SELECT id, n, unnest(tags) AS tag FROM w;
CREATE VIEW both AS SELECT id, n, _topic, _partition, _position FROM t UNION ALL SELECT id, n, _topic, _partition, _position FROM u;
";
const SUM: &str = "SELECT id, sum(n) AS s FROM w GROUP BY id";
const LATEST: &str = "SELECT DISTINCT ON (id) id, n FROM w ORDER BY id, n DESC";

fn plan(text: &str) -> Plan {
    compile_text(&format!("{TABLES}{text};")).unwrap_or_else(|e| panic!("{e}\nof\n{text}"))
}

/// `expected`: the tables that serve, with relation and columns, or why none does.
#[track_caller]
fn check(view: &str, inserts: &str, expected: &str) {
    let plan = plan(&format!("CREATE MATERIALIZED VIEW v AS {view};\n{inserts}"));
    let rebuilds = &plan.rebuilds[0];
    let ways = rebuilds.ways.iter().map(|way| {
        let columns: Vec<&str> = way.columns.iter().map(|(_, name)| name.as_ref()).collect();
        format!("{}.{} as {}({})", way.sink, way.table, way.relation, columns.join(", "))
    });
    let found: Vec<String> = ways.chain(rebuilds.unfit.iter().cloned()).collect();
    assert_eq!(found.join("; "), expected, "{view}\n{inserts}");
}

#[test]
fn a_table_with_every_row_and_what_is_read_of_it_serves() {
    check(SUM, "INSERT INTO lake.w SELECT * FROM w", "lake.w as w(id, n)");
    check(SUM, "INSERT INTO lake.w SELECT n AS number, id, upper(id) AS more FROM w", "lake.w as w(id, number)");
    check(SUM, "INSERT INTO lake.w SELECT * FROM (SELECT id, n FROM w)", "lake.w as w(id, n)");
    // Further down the view's own filter is run again.
    check(SUM, "INSERT INTO lake.t SELECT * FROM t", "lake.t as t(id, n)");
    let two = "INSERT INTO lake.t SELECT * FROM t; INSERT INTO lake.w SELECT * FROM w";
    check(SUM, two, "lake.w as w(id, n); lake.t as t(id, n)");
    check("SELECT tag, count(*) AS c FROM many GROUP BY tag", two, "lake.w as w(tags); lake.t as t(n, tags)");
    check(
        "SELECT id, count(*) AS c FROM both GROUP BY id",
        "INSERT INTO lake.b SELECT * FROM both",
        "lake.b as both(id)",
    );
}

#[test]
fn any_other_table_does_not() {
    check(SUM, "", "no INSERT puts the rows of \"w\" or \"t\" alone into a lake table");
    check(SUM, "INSERT INTO lake.w SELECT id FROM w", "lake.w lacks what is read of \"w\": n");
    check(SUM, "INSERT INTO lake.w SELECT id, n + 1 AS n FROM w", "lake.w lacks what is read of \"w\": n");
    check(SUM, "INSERT INTO lake.w SELECT id, CAST(n AS BIGINT) AS n FROM w", "lake.w lacks what is read of \"w\": n");
    let other_rows = "lake.w does not receive the rows of \"w\" one by one as they are";
    check(SUM, "INSERT INTO lake.w SELECT * FROM w WHERE n < 9", other_rows);
    check(SUM, "INSERT INTO lake.w SELECT id, n, unnest(tags) AS tag FROM w", other_rows);
    check(SUM, "INSERT INTO lake.w SELECT id, n FROM w UNION ALL SELECT id, n FROM w", other_rows);
    let shared = "INSERT INTO lake.w SELECT id, n FROM w; INSERT INTO lake.w SELECT id, n FROM u";
    check(SUM, shared, "lake.w is filled by several statements");
    // A union of two tables needs one that holds the union.
    let apart = "INSERT INTO lake.t SELECT * FROM t; INSERT INTO lake.u SELECT * FROM u";
    let none = "no INSERT puts the rows of \"both\" or \"t\" or \"u\" alone into a lake table";
    check("SELECT id, count(*) AS c FROM both GROUP BY id", apart, none);
}

#[test]
fn distinct_on_asks_where_messages_came_from() {
    let lacking = "lake.w lacks _topic, _partition, _position, by which DISTINCT ON tells rows of equal order apart";
    check(LATEST, "INSERT INTO lake.w SELECT * FROM w", lacking);
    let raw = "INSERT INTO lake.t SELECT *, _topic, _partition, _position FROM t";
    check(LATEST, raw, "lake.t as t(id, n)");
    let half = "INSERT INTO lake.t SELECT *, _topic, _partition FROM t";
    check(LATEST, half, "lake.t lacks _position, by which DISTINCT ON tells rows of equal order apart");
    // Another column by the name of a meta column is not one.
    let fake = "INSERT INTO lake.t SELECT *, id AS _topic, _partition, _position FROM t";
    check(LATEST, fake, "lake.t lacks _topic, by which DISTINCT ON tells rows of equal order apart");
    let of_many = "SELECT DISTINCT ON (id) id, tag FROM many ORDER BY id, tag DESC";
    let plan = plan(&format!("CREATE MATERIALIZED VIEW v AS {of_many}; INSERT INTO lake.m SELECT * FROM many; {raw}"));
    assert!(plan.rebuilds[0].unfit[0].starts_with("lake.m holds several rows of one message and not their order"));
    let way = &plan.rebuilds[0].ways[0];
    let origin = way.origin.as_ref().expect("DISTINCT ON has one");
    assert_eq!((way.relation.as_ref(), origin.position.as_ref()), ("t", "_position"));
    assert!(matches!(&origin.source, OriginSource::Always(source) if **source == *"t"));
}

#[test]
fn a_print_is_that_of_one_column_and_the_rows() {
    let prints = |text: &str| -> BTreeMap<String, String> { compile_text(text).unwrap().feeds[0].columns.clone() };
    let base = format!("{TABLES}INSERT INTO lake.w SELECT id, n, at FROM w;");
    let before = prints(&base);
    let same = |from: &str, to: &str| -> String {
        assert!(base.contains(from), "{from}");
        let after = prints(&base.replace(from, to));
        before
            .iter()
            .filter(|(name, print)| after.get(*name) == Some(print))
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(before.values().map(String::len).collect::<Vec<_>>(), [16, 16, 16]);
    assert_eq!(same("SELECT id, n, at FROM w", "SELECT at, id, n, upper(id) AS more FROM w"), "at id n");
    assert_eq!(same("SELECT id, n, at FROM w", "SELECT id, n * 2 AS n, at FROM w"), "at id");
    assert_eq!(
        same("SELECT id, n, at, tags FROM t", "SELECT id, n, tags, at + INTERVAL '1 hour' AS at FROM t"),
        "id n"
    );
    assert_eq!(same("n INT, at", "n INT, extra TEXT, at"), "at id n");
    // The filter reads n, so every row hangs on it.
    assert_eq!(same("n > 0", "n > 1"), "");
    assert_eq!(same("n INT, at", "n BIGINT, at"), "");
    assert_eq!(same("SELECT id, n, at FROM w", "SELECT id, n, at FROM w WHERE id <> ''"), "");
}
