//! A statement that fails on a message costs that message: what `bisect` rejects and what it lets through.

use crate::sql::exec::NodeOutputs;
use crate::sql::plan::Plan;
use crate::sql::testing::{NOW_US, T, compile_text, leaf, stateless};
use crate::types::reject::{Reject, RejectReason};
use arrow::array::AsArray;
use arrow::datatypes::UInt32Type;
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use std::sync::Arc;

/// Compiles, bisects rows of t; the plan, the rows by node and the rejects.
fn bisect(text: &str, lines: &[String]) -> (Plan, NodeOutputs, Vec<Reject>) {
    let plan = compile_text(&format!("{T}{text}")).unwrap_or_else(|e| panic!("{e}"));
    let batch = leaf(&plan.tables[0], &lines.join("\n"));
    let mut slot = stateless(&plan);
    assert!(slot.run(&[Some(batch.clone())], NOW_US).is_err(), "the batch as a whole fails");
    let (outputs, rejects) = slot.bisect(&[Some(batch)], NOW_US);
    (plan, outputs, rejects)
}

fn messages(outputs: &NodeOutputs, node: usize) -> Vec<u32> {
    let columns = outputs.nodes[node].iter().map(|b| b.columns().last().expect("__msg").clone());
    columns.flat_map(|c| c.as_primitive::<UInt32Type>().values().to_vec()).collect()
}

fn reasons(rejects: &[Reject]) -> Vec<String> {
    rejects.iter().map(|r| format!("{} {}", r.index, r.reason)).collect()
}

#[test]
fn three_of_a_thousand_are_found_and_the_others_go_on() {
    let line = |i: usize| match i {
        17 => r#"{"id":"17","n":0}"#.to_string(),
        500 => r#"{"id":"five hundred","n":1}"#.to_string(),
        999 => r#"{"id":"999","n":0}"#.to_string(),
        _ => format!(r#"{{"id":"{i}","n":{}}}"#, i % 7 + 1),
    };
    let lines: Vec<String> = (0..1000).map(line).collect();
    let (_, outputs, rejects) = bisect("INSERT INTO lake.a SELECT CAST(id AS INT) AS i, 100 / n AS q FROM t;", &lines);
    assert_eq!(
        reasons(&rejects),
        [
            "17 sql:insert lake.a: Divide by zero error",
            "500 sql:insert lake.a: Cannot cast string 'five hundred' to value of Int32 type",
            "999 sql:insert lake.a: Divide by zero error",
        ]
    );
    let expected: Vec<u32> = (0..1000).filter(|i| ![17, 500, 999].contains(i)).collect();
    assert_eq!(messages(&outputs, 0), expected);
    assert_eq!(outputs.nodes[0].len(), 1, "the pieces are one batch again");
}

#[test]
fn rows_that_a_sink_cannot_take_cost_their_messages_alone() {
    let plan = compile_text(&format!("{T}INSERT INTO lake.a SELECT id FROM t;")).unwrap_or_else(|e| panic!("{e}"));
    let lines: Vec<String> = (0..100).map(|i| format!(r#"{{"id":"{i}","n":1}}"#)).collect();
    let mut slot = stateless(&plan);
    slot.check_rows(
        0,
        Arc::new(|rows: &RecordBatch| {
            let ids = rows.column_by_name("id").expect("the statement's column");
            let odd = |row| ["13", "77"].contains(&array_value_to_string(ids, row).expect("text").as_str());
            match (0..rows.num_rows()).any(odd) {
                true => Err(String::from("column \"id\" holds a value the table cannot")),
                false => Ok(()),
            }
        }),
    );
    let (outputs, rejects) = slot.bisect(&[Some(leaf(&plan.tables[0], &lines.join("\n")))], NOW_US);
    assert_eq!(
        reasons(&rejects),
        [13, 77].map(|i| format!("{i} sql:insert lake.a: column \"id\" holds a value the table cannot"))
    );
    assert_eq!(messages(&outputs, 0).len(), 98);
}

#[test]
fn one_bad_element_of_an_array_costs_its_whole_message() {
    let lines: Vec<String> =
        (0..10).map(|i| format!(r#"{{"id":"{i}","tags":["1","{}","3"]}}"#, if i == 4 { "x" } else { "2" })).collect();
    let text = "CREATE VIEW v AS SELECT id, unnest(tags) AS tag FROM t; INSERT INTO lake.a SELECT id, CAST(tag AS INT) AS i FROM v;";
    let (_, outputs, rejects) = bisect(text, &lines);
    assert_eq!(reasons(&rejects), ["4 sql:insert lake.a: Cannot cast string 'x' to value of Int32 type"]);
    assert_eq!(messages(&outputs, 0).len(), 9 * 3);
    assert!(!messages(&outputs, 0).contains(&4));
}

#[test]
fn two_statements_fail_on_different_messages_and_both_lose_both() {
    let lines: Vec<String> = (0..8).map(|i| format!(r#"{{"id":"{i}","n":{i},"x":{}}}"#, 6 - i)).collect();
    let text = "INSERT INTO lake.a SELECT id, 1 / n AS q FROM t;
                INSERT INTO lake.b SELECT id, 1 / CAST(x AS INT) AS q FROM t;";
    let (_, outputs, rejects) = bisect(text, &lines);
    assert_eq!(
        reasons(&rejects),
        ["0 sql:insert lake.a: Divide by zero error", "6 sql:insert lake.b: Divide by zero error"]
    );
    for node in [0, 1] {
        assert_eq!(messages(&outputs, node), [1, 2, 3, 4, 5, 7]);
    }
}

#[test]
fn a_shared_view_is_named_where_it_fails() {
    let lines: Vec<String> = (0..4).map(|i| format!(r#"{{"id":"{i}","n":{i}}}"#)).collect();
    let text = "CREATE VIEW v AS SELECT id, 1 / n AS q FROM t;
                INSERT INTO lake.a SELECT * FROM v; INSERT INTO lake.b SELECT q FROM v;";
    let (plan, outputs, rejects) = bisect(text, &lines);
    let RejectReason::Sql { statement, .. } = &rejects[0].reason else { panic!("an SQL reject") };
    assert_eq!(statement.as_ref(), "v");
    assert_eq!(plan.nodes.len(), 3);
    assert_eq!(messages(&outputs, 1), [1, 2, 3]);
    assert_eq!(messages(&outputs, 2), [1, 2, 3]);
}

#[test]
fn every_message_may_be_guilty() {
    let lines: Vec<String> = (0..5).map(|i| format!(r#"{{"id":"{i}","n":0}}"#)).collect();
    let (_, outputs, rejects) = bisect("INSERT INTO lake.a SELECT 1 / n AS q FROM t;", &lines);
    assert_eq!(rejects.len(), 5);
    assert!(outputs.nodes[0].is_empty());
}
