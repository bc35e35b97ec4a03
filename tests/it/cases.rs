//! Runs every folder tests/cases/error_*: a pipeline with something wrong in it, and what `pipe validate` says about it.
//!
//! A folder holds pipeline.toml, its *.sql, and expected.txt: "exit N", then what is printed. After a change of messages
//! run the test with UPDATE_EXPECT=1, and read the difference: would a user know what to do?

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn broken_pipelines_are_told_what_is_wrong() {
    let cases = cases();
    assert!(cases.len() >= 40, "only {} cases were found", cases.len());
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut differences = String::new();
    for case in &cases {
        let said = validate(case);
        let expected_file = case.join("expected.txt");
        if update {
            fs::write(&expected_file, &said).expect("the case's folder can be written");
            continue;
        }
        let expected = fs::read_to_string(&expected_file).unwrap_or_default();
        if said != expected {
            let name = case.file_name().unwrap_or_default().to_string_lossy();
            write!(differences, "--- {name}: expected\n{expected}+++ {name}: said\n{said}\n").expect("a string");
        }
    }
    assert!(differences.is_empty(), "\n{differences}UPDATE_EXPECT=1 takes over what was said");
}

/// Each case is about what is wrong: one that passes tests nothing.
#[test]
fn every_case_expects_a_fault_or_a_warning() {
    for case in cases() {
        let expected = fs::read_to_string(case.join("expected.txt")).unwrap_or_default();
        let tells = expected.starts_with("exit 2\n") || expected.contains(": warning: ");
        assert!(tells, "{}: expected.txt tells of nothing wrong", case.display());
    }
}

/// What is printed, with the environment the cases know: PIPE_TEST_PORT is set, PIPE_TEST_UNSET is not.
fn validate(case: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_pipe"))
        .args(["validate", "--config", "pipeline.toml"])
        .current_dir(case)
        .env_remove("RUST_LOG")
        .env_remove("PIPE_TEST_UNSET")
        .env("PIPE_TEST_PORT", "1883")
        .env("PIPE_TEST_WORD", "plenty")
        .output()
        .expect("the binary was built with the test");
    let code = output.status.code().map_or("by a signal".to_string(), |code| code.to_string());
    format!("exit {code}\n{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("tests/cases is there")
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.is_dir() && path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("error_")))
        .collect();
    cases.sort();
    cases
}
