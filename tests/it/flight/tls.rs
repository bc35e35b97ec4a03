//! Both servers with a certificate: who is let in, and what `pipe sql` says to whom it does not trust.
//!
//! testdata/tls holds a certificate for localhost and 127.0.0.1 that ends in 2126, its key, and its authority.

use super::started;
use super::world::{Outside, settings};
use pipe::serve::tls::Identity;
use pipe::serve::{Servers, Settings};
use reqwest::{Certificate, Client, StatusCode};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tls").join(name)
}

fn guarded() -> Settings {
    drop(rustls::crypto::ring::default_provider().install_default()); // as main does; another test may have been first
    let tls = Identity::read(&file("server.pem"), &file("server.key")).expect("a certificate and its key");
    Settings { tls: Some(tls), ..settings(&["s3cret"]) }
}

fn trusting() -> Client {
    let ca = std::fs::read(file("ca.pem")).expect("the authority");
    let ca = Certificate::from_pem(&ca).expect("is PEM");
    Client::builder().add_root_certificate(ca).build().expect("a client")
}

async fn pipe_sql(servers: &Servers, scheme: &str, more: &[&str]) -> (i32, String) {
    let url = format!("{scheme}://{}", servers.flight_addr.expect("is served"));
    let run = tokio::process::Command::new(env!("CARGO_BIN_EXE_pipe"))
        .args(["sql", "--json", "--url", &url])
        .args(more)
        .arg("SELECT id FROM latest ORDER BY id LIMIT 1")
        .env_remove("PIPE_TOKEN")
        .env_remove("PIPE_CA")
        .output();
    let Output { status, stdout, stderr } = run.await.expect("the binary was built with the test");
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    (status.code().expect("it ends by itself"), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn http_speaks_tls_to_those_who_trust_it() {
    let servers = started(Outside::new().await, guarded()).await;
    let address = servers.http_addr.expect("is served");
    let stranger = Client::new().get(format!("https://{address}/livez")).send().await;
    assert!(stranger.is_err(), "a client that does not know the authority goes away");
    let clear = Client::new().get(format!("http://{address}/livez")).send().await;
    assert!(clear.is_err(), "nothing is said in clear text");

    // One that says nothing holds up nobody.
    let mut silent = TcpStream::connect(address).await.expect("connects");
    let client = trusting();
    let live = client.get(format!("https://{address}/livez")).send().await.expect("is answered");
    assert_eq!(live.status(), StatusCode::OK);
    let url = format!("https://localhost:{}/api/v1/status", address.port());
    for (token, expected) in [(None, 401), (Some("wrong"), 401), (Some("s3cret"), 200)] {
        let request = client.get(&url);
        let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
        assert_eq!(request.send().await.expect("is answered").status().as_u16(), expected, "{token:?}");
    }
    let nothing = tokio::time::timeout(Duration::from_millis(50), silent.read_u8()).await;
    assert!(nothing.is_err(), "the silent one still waits: {nothing:?}");
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipe_sql_wants_to_trust_and_to_be_let_in() {
    let servers = started(Outside::new().await, guarded()).await;
    let ca = file("ca.pem").display().to_string();
    let key = file("server.key").display().to_string();
    for (scheme, more, code, expected) in [
        ("grpc+tls", &["--ca", &ca, "--token", "s3cret"][..], 0, "\"id\":\"a\""),
        ("grpc+tls", &["--ca", &ca, "--token", "wrong"], 2, "wants a token"),
        ("grpc+tls", &["--ca", &ca], 2, "wants a token"),
        ("grpc+tls", &["--token", "s3cret"], 2, "nobody is trusted yet"),
        ("grpc+tls", &["--ca", "/nowhere.pem", "--token", "s3cret"], 2, "cannot read /nowhere.pem"),
        ("grpc+tls", &["--ca", &key, "--token", "s3cret"], 1, "no trusted connection"),
    ] {
        let (ended, said) = pipe_sql(&servers, scheme, more).await;
        assert_eq!(ended, code, "{more:?}: {said}");
        assert!(said.contains(expected), "{more:?}: {said}");
    }
    let (ended, said) = pipe_sql(&servers, "grpc", &["--token", "s3cret"]).await;
    assert_eq!(ended, 1, "clear text: {said}");
    servers.shutdown().await;
}

#[test]
fn a_certificate_that_is_of_no_use_is_said_before_the_start() {
    for (cert, key, expected) in [
        ("nothing.pem", "server.key", "the certificate"),
        ("server.key", "server.key", "there is no certificate in it"),
        ("server.pem", "server.pem", "the key"),
        ("ca.pem", "server.key", "is of no use"),
    ] {
        let e = Identity::read(&file(cert), &file(key)).err().expect("is refused").to_string();
        assert!(e.contains(expected) && e.contains("[server] tls"), "{cert} {key}: {e}");
    }
}
