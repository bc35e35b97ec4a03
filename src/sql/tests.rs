//! Statements over small inputs: what leaves them, what the plan says about them.

use crate::sql::explain;
use crate::sql::function::{MERGEABLE, MERGEABLE_ORDERED};
use crate::sql::plan::{Fold, Input, InsertFrom, NodeRole, OrderColumn, Plan};
use crate::sql::settle::type_name;
use crate::sql::testing::{NOW_US, T, check, compile_files, compile_text, file, leaf, print, stateless, trim};
use crate::types::table::{ColumnType, EpochUnit, META_COLUMNS, RouteSubject, RouteValue};

const ROWS: &str = r#"
    {"id":"a","n":1,"x":1.5,"at":"2026-11-22T10:00:00Z","tags":["p","q"],"p":{"lat":1.0,"lon":2.0},"ms":[{"t":"2026-11-22T10:00:00Z","v":1.0},{"t":"2026-11-22T10:01:00Z","v":2.0}],"j":"{\"k\":{\"z\":5},\"s\":\"text\"}"}
    {"id":"b","tags":[]}
    {"id":"c","n":3,"x":0.0,"at":"1969-12-31T23:59:59.5Z","tags":["r"],"ms":[{"v":3.0}],"j":"{}"}"#;

fn plan(text: &str) -> Plan {
    compile_text(&format!("{T}{text}")).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_projection_and_a_filter_keep_the_message() {
    check(
        "INSERT INTO lake.a SELECT id, n + 1 AS m FROM t WHERE n > 1;",
        ROWS,
        "+----+---+-------+
         | id | m | __msg |
         +----+---+-------+
         | c  | 4 | 2     |
         +----+---+-------+",
    );
}

#[test]
fn unnest_multiplies_rows_and_drops_those_without_elements() {
    check(
        "INSERT INTO lake.a SELECT id, m['t'] AS t, m['v'] AS v FROM (SELECT id, unnest(ms) AS m FROM t);",
        ROWS,
        "+----+----------------------+-----+-------+
         | id | t                    | v   | __msg |
         +----+----------------------+-----+-------+
         | a  | 2026-11-22T10:00:00Z | 1.0 | 0     |
         | a  | 2026-11-22T10:01:00Z | 2.0 | 0     |
         | c  |                      | 3.0 | 2     |
         +----+----------------------+-----+-------+",
    );
    check(
        "INSERT INTO lake.a SELECT unnest(tags) AS tag FROM t;",
        ROWS,
        "+-----+-------+
         | tag | __msg |
         +-----+-------+
         | p   | 0     |
         | q   | 0     |
         | r   | 2     |
         +-----+-------+",
    );
}

#[test]
fn fields_of_structs_are_read_with_dots_and_brackets() {
    check(
        "INSERT INTO lake.a SELECT q.m.v AS v, m['v'] AS w FROM (SELECT unnest(ms) AS m FROM t) q WHERE m['v'] < 2;",
        ROWS,
        "+-----+-----+-------+
         | v   | w   | __msg |
         +-----+-----+-------+
         | 1.0 | 1.0 | 0     |
         +-----+-----+-------+",
    );
}

#[test]
fn the_star_is_the_declared_columns_alone() {
    let columns = |text: &str| {
        let plan = plan(text);
        plan.inserts[0].schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(" ")
    };
    let own = "id n x at tags p ms j";
    assert_eq!(columns("INSERT INTO lake.a SELECT * FROM t;"), own);
    assert_eq!(columns("INSERT INTO lake.a SELECT k.* FROM t k;"), own);
    assert_eq!(columns("INSERT INTO lake.a SELECT * FROM (SELECT * FROM t) WHERE n > 1;"), own);
    assert_eq!(columns("INSERT INTO lake.a WITH q AS (SELECT * FROM t) SELECT * FROM q;"), own);
    assert_eq!(columns("CREATE VIEW v AS SELECT * FROM t; INSERT INTO lake.a SELECT * FROM v;"), own);
    assert_eq!(columns("INSERT INTO lake.a SELECT * EXCLUDE (ms, j) FROM t;"), "id n x at tags p");
    assert_eq!(columns("INSERT INTO lake.a SELECT * EXCEPT (ms) REPLACE (1 AS n) FROM t;"), "id n x at tags p j");
}

#[test]
fn meta_columns_are_read_by_name_and_reported() {
    let text = "INSERT INTO lake.a SELECT id, _source, _topic, _position FROM t;";
    check(
        text,
        ROWS,
        "+----+---------+--------+-----------+-------+
         | id | _source | _topic | _position | __msg |
         +----+---------+--------+-----------+-------+
         | a  | t       | topic  | 100       | 0     |
         | b  | t       | topic  | 101       | 1     |
         | c  | t       | topic  | 102       | 2     |
         +----+---------+--------+-----------+-------+",
    );
    let used = plan(text).meta_used[0];
    let names: Vec<&str> = META_COLUMNS.iter().zip(used).filter(|(_, u)| *u).map(|(n, _)| *n).collect();
    assert_eq!(names, ["_source", "_topic", "_position"]);
}

#[test]
fn now_is_the_time_of_the_batch_and_not_of_the_plan() {
    let plan = plan(
        "INSERT INTO lake.a SELECT now() AS n, current_timestamp AS c, current_date AS d FROM t WHERE at < now();",
    );
    let batch = leaf(&plan.tables[0], ROWS);
    let mut slot = stateless(&plan);
    let at = |slot: &mut crate::sql::exec::Stateless, now_us| {
        print(&plan, &slot.run(&[Some(batch.clone())], now_us).unwrap())
    };
    let first = "+----------------------+----------------------+------------+-------+
                 | n                    | c                    | d          | __msg |
                 +----------------------+----------------------+------------+-------+
                 | 2026-11-22T00:00:00Z | 2026-11-22T00:00:00Z | 2026-11-22 | 2     |
                 +----------------------+----------------------+------------+-------+";
    assert_eq!(at(&mut slot, NOW_US), trim(first));
    let later = "+-----------------------------+-----------------------------+------------+-------+
                 | n                           | c                           | d          | __msg |
                 +-----------------------------+-----------------------------+------------+-------+
                 | 2026-11-23T00:00:00.000001Z | 2026-11-23T00:00:00.000001Z | 2026-11-23 | 0     |
                 | 2026-11-23T00:00:00.000001Z | 2026-11-23T00:00:00.000001Z | 2026-11-23 | 2     |
                 +-----------------------------+-----------------------------+------------+-------+";
    assert_eq!(at(&mut slot, NOW_US + 86_400_000_001), trim(later));
}

#[test]
fn json_text_is_read_with_functions_and_operators() {
    check(
        "INSERT INTO lake.a SELECT j->>'s' AS s, json_get_int(j, 'k', 'z') AS z, CAST(j->'k'->'z' AS INT) AS y FROM t WHERE json_contains(j, 's');",
        ROWS,
        "+------+---+---+-------+
         | s    | z | y | __msg |
         +------+---+---+-------+
         | text | 5 | 5 | 0     |
         +------+---+---+-------+",
    );
}

#[test]
fn days_are_local_and_leave_as_utc_microseconds() {
    let text = "INSERT INTO lake.a SELECT date_trunc('day', at AT TIME ZONE 'Asia/Seoul') AS d, to_timestamp(n) AS s, TIMESTAMP '2026-01-01' AS c FROM t;";
    check(
        text,
        ROWS,
        "+----------------------+----------------------+----------------------+-------+
         | d                    | s                    | c                    | __msg |
         +----------------------+----------------------+----------------------+-------+
         | 2026-11-21T15:00:00Z | 1970-01-01T00:00:01Z | 2026-01-01T00:00:00Z | 0     |
         |                      |                      | 2026-01-01T00:00:00Z | 1     |
         | 1969-12-31T15:00:00Z | 1970-01-01T00:00:03Z | 2026-01-01T00:00:00Z | 2     |
         +----------------------+----------------------+----------------------+-------+",
    );
    let plan = plan(text);
    assert!(plan.inserts[0].schema.fields().iter().all(|f| *f.data_type() == crate::types::table::timestamp_type()));
}

#[test]
fn union_all_is_in_the_order_of_messages() {
    check(
        "INSERT INTO lake.a SELECT id, n FROM t WHERE n IS NOT NULL UNION ALL SELECT id, n + 10 FROM t;",
        ROWS,
        "+----+----+-------+
         | id | n  | __msg |
         +----+----+-------+
         | a  | 1  | 0     |
         | a  | 11 | 0     |
         | b  |    | 1     |
         | c  | 3  | 2     |
         | c  | 13 | 2     |
         +----+----+-------+",
    );
}

#[test]
fn columns_go_by_their_list_where_there_is_one() {
    check(
        "CREATE VIEW v (k, m) AS SELECT id, n + 1 FROM t; INSERT INTO lake.a (key, up) SELECT k, upper(k) FROM v;",
        ROWS,
        "+-----+----+-------+
         | key | up | __msg |
         +-----+----+-------+
         | a   | A  | 0     |
         | b   | B  | 1     |
         | c   | C  | 2     |
         +-----+----+-------+",
    );
}

#[test]
fn two_columns_that_differ_only_by_the_list_are_two() {
    check(
        "INSERT INTO lake.a (at, day) SELECT at, CAST(at AS DATE) FROM t WHERE n = 1;",
        ROWS,
        "+----------------------+------------+-------+
         | at                   | day        | __msg |
         +----------------------+------------+-------+
         | 2026-11-22T10:00:00Z | 2026-11-22 | 0     |
         +----------------------+------------+-------+",
    );
}

/// Rows of both statements are put together by position.
#[test]
fn statements_that_fill_one_table_yield_its_columns_in_one_order() {
    let plan = plan(
        "INSERT INTO lake.a SELECT id, n FROM t; INSERT INTO lake.a SELECT x, CAST(1 AS INT) AS n, id FROM t;
         INSERT INTO lake.b SELECT x FROM t;",
    );
    let batch = leaf(&plan.tables[0], ROWS);
    let outputs = stateless(&plan).run(&[Some(batch)], NOW_US).expect("no statement fails");
    let names = |node: usize| {
        let schema = outputs.nodes[node][0].schema();
        schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!([names(0), names(1), names(2)], ["id n x __msg", "id n x __msg", "x __msg"]);
    assert_eq!(plan.inserts[0].schema, plan.inserts[1].schema);
    assert_eq!(outputs.nodes[0][0].schema().field(2), outputs.nodes[1][0].schema().field(2));
    assert_eq!(outputs.nodes[0][0].column(2).null_count(), 3, "the first statement has no x");
}

#[test]
fn a_constant_needs_no_column() {
    check(
        "INSERT INTO lake.a SELECT 1 AS one FROM t WHERE n = 3;",
        ROWS,
        "+-----+-------+
         | one | __msg |
         +-----+-------+
         | 1   | 2     |
         +-----+-------+",
    );
}

#[test]
fn what_a_sink_cannot_write_is_cast() {
    let plan = plan(
        "INSERT INTO lake.a SELECT json_length(j) AS u64, arrow_cast(id, 'LargeUtf8') AS large, arrow_cast(id, 'Utf8View') AS view FROM t;",
    );
    let types: Vec<String> = plan.inserts[0].schema.fields().iter().map(|f| f.data_type().to_string()).collect();
    assert_eq!(types, ["Int64", "Utf8", "Utf8"]);
}

#[test]
fn a_view_with_one_reader_is_inlined_and_one_with_several_is_shared() {
    let one = plan(
        "CREATE VIEW v AS SELECT id FROM t; CREATE VIEW unread AS SELECT id FROM v; INSERT INTO lake.a SELECT * FROM v;",
    );
    assert_eq!(one.nodes.len(), 1);
    assert_eq!(one.nodes[0].reads, [Input::Table(0)]);
    assert_eq!(one.nodes[0].statement.as_ref(), "insert lake.a");
    assert_eq!(one.stateless_views.len(), 2);

    let two = plan(
        "INSERT INTO lake.a SELECT * FROM w; INSERT INTO lake.b SELECT * FROM w;
         CREATE VIEW w AS SELECT id FROM v WHERE n > 0; CREATE VIEW v AS SELECT id, n FROM t;",
    );
    let nodes: Vec<_> = two.nodes.iter().map(|n| (n.statement.as_ref(), n.role, n.reads.clone())).collect();
    assert_eq!(
        nodes,
        [
            ("w", NodeRole::Shared, vec![Input::Table(0)]),
            ("insert lake.a", NodeRole::Insert(0), vec![Input::Node(0)]),
            ("insert lake.b", NodeRole::Insert(1), vec![Input::Node(0)]),
        ]
    );
    let outputs = stateless(&two).run(&[Some(leaf(&two.tables[0], ROWS))], NOW_US).unwrap();
    let rows: Vec<usize> = outputs.nodes.iter().map(|b| b.iter().map(|b| b.num_rows()).sum()).collect();
    assert_eq!(rows, [0, 2, 2]);
}

#[test]
fn nothing_in_gives_nothing_out() {
    let plan = plan("INSERT INTO lake.a SELECT id FROM t;");
    let mut slot = stateless(&plan);
    for tables in [vec![None], vec![Some(leaf(&plan.tables[0], ""))]] {
        assert!(slot.run(&tables, NOW_US).unwrap().nodes.iter().all(Vec::is_empty));
    }
}

#[test]
fn executions_beyond_the_reset_still_answer() {
    let plan = plan("INSERT INTO lake.a SELECT id, unnest(tags) AS tag FROM t WHERE n = 1;");
    let batch = leaf(&plan.tables[0], ROWS);
    let mut slot = stateless(&plan);
    for _ in 0..crate::types::limit::PLAN_EXECUTIONS_MAX * 2 + 1 {
        let outputs = slot.run(&[Some(batch.clone())], NOW_US).unwrap();
        assert_eq!(outputs.nodes[0].iter().map(|b| b.num_rows()).sum::<usize>(), 2);
    }
}

#[test]
fn a_group_by_is_split_into_input_fold_and_reading() {
    let text = "CREATE MATERIALIZED VIEW v AS
                SELECT id, date_bin(INTERVAL '1 hour', at) AS hour, count(*) AS c, sum(x) FILTER (WHERE n > 1) AS s,
                       last_value(x ORDER BY at) AS l, avg(n) + 1 AS a, approx_percentile_cont(x, 0.9) AS p
                FROM t GROUP BY id, date_bin(INTERVAL '1 hour', at) HAVING count(*) > 0;";
    check(
        text,
        ROWS,
        "+----+----------------------+-----+----------------+--------------------------+-----+-------+
         | id | hour                 | x   | t.n > Int64(1) | at                       | t.n | __msg |
         +----+----------------------+-----+----------------+--------------------------+-----+-------+
         | a  | 2026-11-22T10:00:00Z | 1.5 | false          | 2026-11-22T10:00:00Z     | 1.0 | 0     |
         | b  |                      |     |                |                          |     | 1     |
         | c  | 1969-12-31T23:00:00Z | 0.0 | true           | 1969-12-31T23:59:59.500Z | 3.0 | 2     |
         +----+----------------------+-----+----------------+--------------------------+-----+-------+",
    );
    let plan = plan(text);
    let view = &plan.views[0];
    assert_eq!(plan.nodes[view.input].role, NodeRole::ViewInput(0));
    assert_eq!(view.key, [0, 1]);
    assert!(view.having.is_some());
    let names: Vec<&str> = view.output_schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["id", "hour", "c", "s", "l", "a", "p"]);
    let Fold::GroupBy { groups, aggregates, result_schema } = &view.fold else { panic!("a GROUP BY") };
    assert_eq!(groups, &[0, 1]);
    let filters: Vec<bool> = aggregates.iter().map(|a| a.filter.is_some()).collect();
    assert_eq!(filters, [false, true, false, false, false]);
    assert_eq!(result_schema.fields().len(), 2 + 5);
    // Each can be built and fed: the constant of approx_percentile_cont stayed a constant.
    aggregates.iter().for_each(|a| drop(a.function.create_accumulator().expect("an accumulator")));
}

#[test]
fn every_mergeable_aggregate_can_be_kept() {
    for name in MERGEABLE.iter().chain(&MERGEABLE_ORDERED) {
        let args = match *name {
            "approx_percentile_cont" => "x, 0.9",
            "approx_distinct" => "id",
            "bool_and" | "bool_or" => "n > 1",
            "bit_and" | "bit_or" | "bit_xor" => "n",
            "first_value" | "last_value" | "array_agg" => "x ORDER BY at",
            "string_agg" => "id, ',' ORDER BY at",
            two if two.starts_with("cov") || two.starts_with("regr") || two == "corr" => "x, n",
            _ => "x",
        };
        let plan = plan(&format!("CREATE MATERIALIZED VIEW v AS SELECT id, {name}({args}) AS a FROM t GROUP BY id;"));
        let Fold::GroupBy { aggregates, .. } = &plan.views[0].fold else { panic!("a GROUP BY") };
        let accumulator = aggregates[0].function.create_accumulator();
        assert!(accumulator.is_ok(), "{name}: {:?}", accumulator.err());
        assert!(!aggregates[0].function.state_fields().unwrap().is_empty(), "{name} has a state");
    }
}

#[test]
fn distinct_on_keeps_its_order_columns_beside_its_output() {
    let text = "CREATE MATERIALIZED VIEW v AS SELECT DISTINCT ON (id) x, id FROM t ORDER BY id DESC, at DESC, n;";
    check(
        text,
        ROWS,
        "+-----+----+--------------------------+---+-------+
         | x   | id | at                       | n | __msg |
         +-----+----+--------------------------+---+-------+
         | 1.5 | a  | 2026-11-22T10:00:00Z     | 1 | 0     |
         |     | b  |                          |   | 1     |
         | 0.0 | c  | 1969-12-31T23:59:59.500Z | 3 | 2     |
         +-----+----+--------------------------+---+-------+",
    );
    let plan = plan(text);
    let view = &plan.views[0];
    assert_eq!(view.key, [1]);
    assert_eq!(view.output_schema.fields().len(), 2);
    let Fold::DistinctOn { on, order, .. } = &view.fold else { panic!("a DISTINCT ON") };
    assert_eq!(on, &[1]);
    let expected = [OrderColumn { column: 2, descending: true }, OrderColumn { column: 3, descending: false }];
    assert_eq!(order, &expected);
}

#[test]
fn a_key_value_sink_follows_a_view_by_filter_and_projection() {
    let plan = plan(
        "CREATE MATERIALIZED VIEW v AS SELECT DISTINCT ON (id) id, x, at FROM t ORDER BY id, at DESC;
         INSERT INTO kv.v SELECT double_x, vehicle FROM (SELECT id AS vehicle, x * 2 AS double_x FROM v WHERE x > 0) WHERE vehicle <> 'b';",
    );
    let insert = &plan.inserts[0];
    let InsertFrom::View { view: 0, filter: Some(filter), projection, key } = &insert.from else { panic!("a view") };
    assert_eq!(key, &[1]);
    assert_eq!(filter.to_string(), "x@1 > 0 AND id@0 != b");
    let projection: Vec<String> = projection.iter().map(|e| e.to_string()).collect();
    assert_eq!(projection, ["x@1 * 2", "id@0"]);
    assert_eq!(insert.whole_of, None);
}

#[test]
fn the_table_of_a_stream_is_the_one_that_receives_all_of_it() {
    let whole = |text: &str| plan(text).inserts[0].whole_of.as_ref().map(ToString::to_string);
    assert_eq!(whole("INSERT INTO lake.a SELECT * FROM t;").as_deref(), Some("t"));
    assert_eq!(whole("INSERT INTO lake.a SELECT *, n + 1 AS m FROM t;").as_deref(), Some("t"));
    assert_eq!(whole("INSERT INTO lake.a SELECT * FROM t WHERE n > 1;"), None);
    assert_eq!(whole("INSERT INTO lake.a SELECT *, unnest(tags) AS tag FROM t;"), None);
    assert_eq!(whole("INSERT INTO lake.a SELECT * EXCLUDE (n) FROM t;"), None);
    assert_eq!(whole("INSERT INTO lake.a SELECT id FROM t;"), None);
    assert_eq!(whole("INSERT INTO lake.a SELECT * FROM (SELECT * FROM t);"), None);
}

#[test]
fn a_table_takes_types_nullability_route_and_units() {
    let plan = compile_text(
        "CREATE TABLE ignition (\"vehicleId\" TEXT NOT NULL, d DECIMAL(9, 2), s STRUCT<a STRUCT<b INT NOT NULL>>, m MAP<TEXT, DOUBLE>,
           l ARRAY<BIGINT NOT NULL>, ll TEXT[][], sent_at TIMESTAMPTZ, ms STRUCT<t TIMESTAMP WITH TIME ZONE>[])
         WITH (source = 'status', route = (type = 'ignition' AND header.v IN (1, -2) AND _topic = 'x' AND live = true),
               epoch_unit = (sent_at = 'ms', ms.t = 's'));
         CREATE TABLE captured (a JSON);",
    )
    .unwrap();
    let table = &plan.tables[0];
    assert_eq!(table.source.as_ref(), "status");
    assert_eq!((table.columns[0].name.as_ref(), table.columns[0].nullable), ("vehicleId", false));
    assert_eq!(table.columns[1].kind, ColumnType::Decimal(9, 2));
    let ColumnType::Struct(outer) = &table.columns[2].kind else { panic!("a struct") };
    let ColumnType::Struct(inner) = &outer[0].kind else { panic!("a struct in it") };
    assert_eq!((inner[0].nullable, &inner[0].kind), (false, &ColumnType::Int));
    let kinds: Vec<String> = table.columns[3..6].iter().map(|c| type_name(&c.kind.arrow())).collect();
    assert_eq!(kinds, ["MAP<TEXT, DOUBLE>", "BIGINT[]", "TEXT[][]"]);
    let ColumnType::Timestamp(unit) = table.columns[6].kind else { panic!("a timestamp") };
    assert_eq!(unit, Some(EpochUnit::Millis));
    let conditions = &table.route.as_ref().unwrap().conditions;
    assert_eq!(conditions[1].values, [RouteValue::Int(1), RouteValue::Int(-2)]);
    assert_eq!(conditions[1].subject, RouteSubject::Field(vec!["header".into(), "v".into()]));
    assert_eq!(conditions[2].subject, RouteSubject::Topic);
    let captured: Vec<&str> = plan.tables[1].columns.iter().map(|c| c.name.as_ref()).collect();
    assert_eq!(captured, ["a", "_extra"]);
}

#[test]
fn a_fingerprint_follows_the_meaning_and_not_the_place() {
    let print = |files: &[(&str, &str)]| {
        let files: Vec<_> = files.iter().map(|(name, text)| file(name, text)).collect();
        compile_files(&files).unwrap_or_else(|e| panic!("{e}")).views[0].fingerprint.clone()
    };
    let source = "CREATE VIEW w AS SELECT id, n FROM t WHERE n > 0;";
    let view = "CREATE MATERIALIZED VIEW v AS SELECT id, sum(n) AS s FROM w GROUP BY id;";
    let base = print(&[("a.sql", T), ("b.sql", source), ("c.sql", view)]);
    let spaced = view.replace(' ', "\n   ") + " -- a comment";
    let extra = "INSERT INTO lake.a SELECT * FROM w; CREATE VIEW other AS SELECT id FROM t;";
    assert_eq!(base, print(&[("z.sql", &format!("{extra}\n{spaced}\n;{source}")), ("y.sql", T)]));
    let other_source = source.replace("n > 0", "n > 1");
    assert_ne!(base, print(&[("a.sql", T), ("b.sql", &other_source), ("c.sql", view)]));
    let other_view = view.replace("sum(n)", "max(n)");
    assert_ne!(base, print(&[("a.sql", T), ("b.sql", source), ("c.sql", &other_view)]));
    let other_table = T.replace("n INT", "n BIGINT");
    assert_ne!(base, print(&[("a.sql", &other_table), ("b.sql", source), ("c.sql", view)]));
}

#[test]
fn the_fleet_is_explained() {
    let names = ["10_sources", "20_points", "30_hot", "40_deliver"];
    let path = |name: &str| format!("{}/sql/fleet/{name}.sql", env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(path(name)).expect("the fleet's SQL");
    let files: Vec<_> = names.iter().map(|name| file(name, &read(name))).collect();
    let plan = compile_files(&files).unwrap_or_else(|e| panic!("{e}"));
    let found = explain(&plan);
    // The fingerprint moves with DataFusion's version; the rest should not move unseen.
    let found: String = found.lines().filter(|l| !l.starts_with("  print:")).map(|l| format!("{l}\n")).collect();
    let golden = format!("{}/src/sql/explain_fleet.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&golden, &found).expect("the golden file");
    }
    let expected = std::fs::read_to_string(&golden).expect("UPDATE_EXPECT=1 writes it");
    assert_eq!(found, expected, "\n--- found ---\n{found}");
}
