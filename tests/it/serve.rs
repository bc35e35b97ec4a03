//! `pipe serve` as an operator meets it: what is wrong outside is said before anything is claimed.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SQL: &str = "CREATE TABLE t (id INT);\nINSERT INTO lake.t SELECT * FROM t;\n";

/// Runs `pipe serve` with this under [server]; the exit code and what was said.
fn serve(folder: &tempfile::TempDir, server: &str) -> (i32, String) {
    serve_with(folder, SQL, &format!("[server]\n{server}\n[source.t]\ntype = 'file'\npath = 't.jsonl'"))
}

fn serve_with(folder: &tempfile::TempDir, sql: &str, toml: &str) -> (i32, String) {
    let output = prepare(folder, sql, toml).output().expect("the binary was built with the test");
    (output.status.code().expect("it ends by itself"), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn prepare(folder: &tempfile::TempDir, sql: &str, toml: &str) -> Command {
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("the folder can be written");
    write("t.sql", sql);
    write("t.jsonl", "{\"id\": 1}\n");
    write(
        "p.toml",
        &format!(
            "[pipeline]\nname = 'p'\nsql = ['*.sql']\ndata_dir = 'data'\n{toml}\n\
             [sink.lake]\ntype = 'delta'\nuri = 'lake'\n"
        ),
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_pipe"));
    command
        .args(["serve", "--config", "p.toml"])
        .current_dir(folder.path())
        .env_remove("PIPE_TEST_UNSET")
        .env_remove("RUST_LOG");
    command
}

#[test]
fn what_the_servers_cannot_have_is_said_before_the_chain_is_claimed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let taken = listener.local_addr().expect("has an address");
    for (server, expected) in [
        (format!("http = '127.0.0.1:0'\nflight = '{taken}'"), "in use by another process"),
        ("http = '127.0.0.1:0'\ntoken = { env = 'PIPE_TEST_UNSET' }".into(), "\"PIPE_TEST_UNSET\" is not set"),
        (
            "http = '127.0.0.1:0'\ntls = { cert = 'no.pem', key = 'no.key' }".into(),
            "no.pem\" of [server] tls cannot be read",
        ),
        ("http = '0.0.0.0:0'".into(), "nobody is asked for a token"),
    ] {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (code, said) = serve(&folder, &server);
        assert!(code == 1 || code == 2, "{server}: {code}");
        assert!(said.contains(expected) && said.contains("hint: "), "{server}: {said}");
        for left in ["data/checkpoint", "lake"] {
            assert!(!folder.path().join(left).exists(), "{server}: {left} was made");
        }
    }
}

#[test]
fn under_once_a_signal_before_the_end_is_no_success() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let sql = "CREATE TABLE k (id INT);\nINSERT INTO lake.k SELECT * FROM k;";
    // Nobody is there, so the end is not reached.
    let source = "[source.k]\ntype = 'kafka'\nbrokers = ['127.0.0.1:1']\ntopics = ['k']";
    let log = folder.path().join("log");
    let said = fs::File::create(&log).expect("the folder can be written");
    let mut command = prepare(&folder, sql, source);
    let serving = command.args(["--once", "--json"]).stdout(Stdio::piped()).stderr(said).spawn().expect("runs");
    let until = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(&log).expect("text").contains("topic not connected") {
        assert!(Instant::now() < until, "it does not say that nobody is there");
        std::thread::sleep(Duration::from_millis(20));
    }
    let told = Command::new("kill").args(["-TERM", &serving.id().to_string()]).status().expect("kill runs");
    assert!(told.success());
    let output = serving.wait_with_output().expect("it ends");
    let account: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("the account is printed all the same");
    assert_eq!((output.status.code(), &account["counts"]["received"]), (Some(1), &serde_json::json!(0)));
}

/// Claiming fences a process that works; so it must not be done by one that cannot.
#[test]
fn secrets_that_are_not_there_are_said_before_the_chain_is_claimed_and_all_at_once() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let sql = "CREATE TABLE k (id INT);\nCREATE TABLE m (id INT);\nINSERT INTO lake.k SELECT * FROM k;";
    let toml = "[server]\nhttp = 'off'\nflight = 'off'\n\
                [source.k]\ntype = 'kafka'\nbrokers = ['127.0.0.1:1']\ntopics = ['k']\n\
                properties = { 'sasl.password' = { env = 'PIPE_TEST_UNSET' } }\n\
                [source.m]\ntype = 'mqtt'\nurl = 'mqtt://127.0.0.1:1'\ntopics = ['m']\nclient_id = 'm'\n\
                username = 'u'\npassword = { file = 'no.txt' }";
    let (code, said) = serve_with(&folder, sql, toml);
    assert_eq!(code, 2, "{said}");
    for expected in
        ["p.toml:12:", "\"PIPE_TEST_UNSET\" is not set", "p.toml:19:", "no.txt", "hint: It is looked up", "2 faults"]
    {
        assert!(said.contains(expected), "{expected} is missing in {said}");
    }
    for left in ["data/checkpoint", "lake"] {
        assert!(!folder.path().join(left).exists(), "{left} was made");
    }
}
