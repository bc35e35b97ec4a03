//! `pipe serve` as an operator meets it: what is wrong outside is said before anything is claimed.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

const SQL: &str = "CREATE TABLE t (id INT);\nINSERT INTO lake.t SELECT * FROM t;\n";

/// Runs `pipe serve` with this under [server]; the exit code and what was said.
fn serve(folder: &tempfile::TempDir, server: &str) -> (i32, String) {
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("the folder can be written");
    write("t.sql", SQL);
    write("t.jsonl", "{\"id\": 1}\n");
    write(
        "p.toml",
        &format!(
            "[pipeline]\nname = 'p'\nsql = ['*.sql']\ndata_dir = 'data'\n[server]\n{server}\n\
             [source.t]\ntype = 'file'\npath = 't.jsonl'\n[sink.lake]\ntype = 'delta'\nuri = 'lake'\n"
        ),
    );
    let output = Command::new(env!("CARGO_BIN_EXE_pipe"))
        .args(["serve", "--config", "p.toml"])
        .current_dir(folder.path())
        .env_remove("PIPE_TEST_UNSET")
        .env_remove("RUST_LOG")
        .output()
        .expect("the binary was built with the test");
    (output.status.code().expect("it ends by itself"), String::from_utf8_lossy(&output.stderr).into_owned())
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
