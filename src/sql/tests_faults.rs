//! What is refused, where, and with which words. tests/cases/error_sql_* hold whole files; here is one line for a rule.

use crate::sql::testing::{T, compile_files, faults, file};

/// Each text has exactly one fault, which begins like this.
fn refused(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let found = faults(text);
        assert!(found.starts_with(expected), "{text}\nexpected {expected}\nfound    {found}");
        assert_eq!(found.lines().filter(|l| !l.starts_with("  hint: ")).count(), 1, "{text}\nfound {found}");
    }
}

#[test]
fn clauses_outside_the_language_are_named() {
    refused(&[
        ("INSERT INTO lake.a SELECT id FROM t LIMIT 3;", "a.sql:1:20: LIMIT is not part"),
        ("INSERT INTO lake.a SELECT id FROM t ORDER BY id;", "a.sql:1:46: ORDER BY is not part"),
        ("INSERT INTO lake.a SELECT id FROM t TABLESAMPLE (10);", "a.sql:1:35: TABLESAMPLE is not part"),
        ("INSERT INTO lake.a SELECT id FROM t FOR SYSTEM_TIME AS OF now();", "a.sql:1:37: FOR SYSTEM_TIME is not part"),
        ("INSERT INTO lake.a SELECT id FROM t JOIN t AS u ON t.id = u.id;", "a.sql:1:42: joins are not built yet"),
        ("INSERT INTO lake.a SELECT id FROM t UNION SELECT id FROM t;", "a.sql:1:20: UNION is not part"),
        ("INSERT INTO lake.a SELECT id FROM t EXCEPT SELECT id FROM t;", "a.sql:1:20: EXCEPT is not part"),
        ("INSERT INTO lake.a SELECT DISTINCT id FROM t;", "a.sql:1:20: SELECT DISTINCT would have to remember"),
        (
            "INSERT INTO lake.a WITH RECURSIVE q AS (SELECT id FROM t) SELECT id FROM q;",
            "a.sql:1:20: WITH RECURSIVE is not",
        ),
        ("INSERT INTO lake.a SELECT id, n + 1 FROM t;", "a.sql:1:31: the column \"n + 1\" has no name"),
        ("INSERT INTO lake.a SELECT id FROM t GROUP BY ALL;", "a.sql:1:20: GROUP BY ALL is not part"),
        ("INSERT INTO lake.a SELECT id FROM t QUALIFY true;", "a.sql:1:20: QUALIFY is not part"),
        ("INSERT INTO lake.a VALUES (1);", "a.sql:1:27: VALUES is not part"),
        ("INSERT INTO lake.a SELECT 1 AS one;", "a.sql:1:20: a statement reads a table or a view"),
    ]);
}

#[test]
fn expressions_outside_the_language_are_named() {
    refused(&[
        ("INSERT INTO lake.a SELECT (SELECT 1) AS o FROM t;", "a.sql:1:28: subqueries in expressions"),
        (
            "INSERT INTO lake.a SELECT id FROM t WHERE EXISTS (SELECT 1 FROM t);",
            "a.sql:1:51: subqueries in expressions",
        ),
        ("INSERT INTO lake.a SELECT $1 AS p FROM t;", "a.sql:1:27: parameter $1 has no value"),
        ("INSERT INTO lake.a SELECT n <=> 1 AS z FROM t;", "a.sql:1:27: operator <=> is not part"),
        ("INSERT INTO lake.a SELECT sum(n) OVER () AS z FROM t;", "a.sql:1:27: window functions are not part"),
        ("INSERT INTO lake.a SELECT max(n) AS z FROM t;", "a.sql:1:27: max keeps state"),
        ("INSERT INTO lake.a SELECT current_time AS z FROM t;", "a.sql:1:27: "),
    ]);
}

#[test]
fn folds_that_cannot_be_kept_are_named() {
    let view = |query: &str| format!("CREATE MATERIALIZED VIEW v AS {query};");
    for (query, expected) in [
        ("SELECT id FROM t", "a materialized view needs a key"),
        ("SELECT count(*) AS n FROM t", "a materialized view needs a key"),
        ("SELECT count(*) AS n FROM t GROUP BY id", "the key \"id\" is not among the columns"),
        ("SELECT id, any_value(n) AS n FROM t GROUP BY id", "any_value cannot be kept"),
        ("SELECT id, approx_distinct(x) AS n FROM t GROUP BY id", "'approx_distinct' for data type DOUBLE"),
        ("SELECT id, first_value(n) AS n FROM t GROUP BY id", "first_value without ORDER BY"),
        ("SELECT id, count(*) AS n FROM t WHERE at > now() GROUP BY id", "now() cannot feed a materialized view"),
        ("SELECT id, count(*) AS n FROM t GROUP BY ROLLUP (id)", "GROUPING SETS, CUBE and ROLLUP"),
        ("SELECT DISTINCT ON (id) id FROM t", "DISTINCT ON without ORDER BY"),
        ("SELECT DISTINCT ON (id) id FROM t ORDER BY id", "ORDER BY does not say which row"),
        ("SELECT DISTINCT ON (id) n FROM t ORDER BY id, at", "the key \"id\" is not among the columns"),
        ("SELECT DISTINCT ON (id) id FROM t ORDER BY at", "ORDER BY does not begin with the columns"),
        ("SELECT DISTINCT ON (id) id FROM t ORDER BY id, tags", "rows cannot be ordered by \"tags\""),
        ("SELECT DISTINCT ON (id) id, unnest(tags) AS tag FROM t ORDER BY id, at", "unnest stands in the list"),
    ] {
        let found = faults(&view(query));
        assert!(found.contains(expected), "{query}\nexpected {expected}\nfound    {found}");
    }
}

#[test]
fn every_fault_of_every_file_is_told_at_once_in_their_order() {
    let files = [
        file("z.sql", "CREATE VIEW broken AS SELECT FROM;\nINSERT INTO lak.a SELECT idd FROM t;"),
        file("t.sql", T),
        file("a.sql", "INSERT INTO lake.b SELECT nothing FROM broken;\nINSERT INTO lake.c SELECT xx FROM t;"),
    ];
    let found = compile_files(&files).unwrap_err();
    let places: Vec<&str> =
        found.lines().filter(|l| !l.starts_with("  ")).map(|l| l.split(": ").next().unwrap()).collect();
    // The reader of a broken view is not blamed for it.
    assert_eq!(places, ["z.sql:1:34", "z.sql:2:13", "z.sql:2:26", "a.sql:2:27"], "{found}");
}

#[test]
fn an_updating_query_and_an_append_only_sink_do_not_meet() {
    let view = "CREATE MATERIALIZED VIEW v AS SELECT id, count(*) AS n FROM t GROUP BY id;\n";
    let cases = [
        ("INSERT INTO lake.a SELECT * FROM v;", "a.sql:2:13: \"v\" changes rows after emitting them"),
        ("INSERT INTO kv.a SELECT id, tags FROM t;", "a.sql:2:13: only materialized views feed a key-value sink"),
        ("INSERT INTO kv.a SELECT n FROM v;", "a.sql:2:1: the key \"id\" of materialized view \"v\""),
        ("CREATE VIEW w AS SELECT id FROM v;", "a.sql:2:33: \"v\" is a materialized view"),
    ];
    for (text, expected) in cases {
        let found = faults(&format!("{view}{text}"));
        assert!(found.starts_with(expected), "{text}\nexpected {expected}\nfound    {found}");
    }
}
