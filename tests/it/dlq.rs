//! `pipe dlq list` and `show` over the dead letters of a real run, without a running pipeline.

use crate::audit::{Pipeline, text};
use serde_json::Value;

fn lines(pipeline: &Pipeline, verb: &str, args: &[&str]) -> Vec<Value> {
    let done = pipeline.command(verb, &[args, &["--json"]].concat()).output().expect("the binary was built");
    assert!(done.status.success(), "{}", text(&done));
    let said = String::from_utf8(done.stdout).expect("UTF-8");
    said.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

#[test]
fn dead_letters_are_counted_and_shown() {
    let pipeline = Pipeline::ran();
    let counted = lines(&pipeline, "dlq list", &[]);
    let of = |l: &Value| (l["source"].to_string(), l["reason"].to_string(), l["messages"].to_string());
    let expected = |reason: &str| ("\"t\"".to_string(), format!("\"{reason}\""), "1".to_string());
    assert_eq!(counted.iter().map(of).collect::<Vec<_>>(), [expected("syntax"), expected("type")]);
    let shown = lines(&pipeline, "dlq show", &["--where", "code = 'type'"]);
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(shown[0]["payload"], "{\"n\":\"text\"}");
    assert!(shown[0]["reason"].as_str().is_some_and(|r| r.starts_with("type: n")), "{shown:?}");
    assert_eq!(lines(&pipeline, "dlq show", &["--limit", "1"]).len(), 1);
    let people = pipeline.command("dlq show", &[]).output().expect("runs");
    assert!(text(&people).contains("  not json\n") && text(&people).contains("(2 dead letters)"), "{}", text(&people));
}

#[test]
fn a_wrong_predicate_and_a_missing_table_are_told_apart() {
    let pipeline = Pipeline::ran();
    let wrong = pipeline.command("dlq list", &["--where", "reeson = 'x'"]).output().expect("runs");
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    assert!(text(&wrong).contains("reeson"), "{}", text(&wrong));
    let pipeline = Pipeline::new();
    let missing = pipeline.command("dlq list", &[]).output().expect("runs");
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing));
}
