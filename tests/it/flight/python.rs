//! Clients not written here: ADBC and pyarrow, when PIPE_TEST_PYTHON names a Python that has them.

use super::serving;
use super::world::Outside;
use std::io::Write;

#[tokio::test(flavor = "multi_thread")]
async fn adbc_and_pyarrow_read_everything() {
    let Ok(python) = std::env::var("PIPE_TEST_PYTHON") else {
        println!("PIPE_TEST_PYTHON is not set: ADBC and pyarrow were not tried");
        return;
    };
    let (servers, _) = serving(Outside::new().await).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/flight_client.py");
    let url = format!("grpc://{}", servers.flight_addr.expect("is served"));
    let table = ["--table", "hot.latest", "--key", "id", "--value", "a"];
    let ran = tokio::process::Command::new(&python).arg(script).arg(url).args(table).output().await.expect("runs");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");
    servers.shutdown().await;
    // Past the test's own capture, so that a gate's log shows that it ran.
    writeln!(std::io::stderr(), "adbc_and_pyarrow_read_everything: ran with {python}").expect("somebody listens");
}
