//! The servers: Flight SQL and HTTP over one running pipeline.
//!
//! They read through `query` and show what the engine says about itself; what they need of it is `Facade`. A server
//! decides nothing about data.

pub mod access; // who may ask
pub mod flight; // Arrow Flight SQL
pub mod http; // liveness, readiness, metrics, status, SQL, key-value reads
pub mod live; // a running engine as the servers see it
pub mod metrics; // the recorder, and what every metric means
pub mod tls; // certificate and key

use crate::query::World;
use crate::query::run::{Queries, QuerySettings};
use crate::serve::access::Access;
use crate::serve::tls::Identity;
use crate::types::error::{Error, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What the servers show of a running engine.
pub trait Facade: World + Send + Sync {
    /// Every component that must be up before the pipeline counts as ready.
    fn ready(&self) -> Vec<ComponentState>;

    /// The body of /api/v1/status.
    fn status(&self) -> serde_json::Value;

    /// The value under a key of a key-value table, columns by name; None when there is none. A sink or table that does
    /// not exist is `Error::Config`. May block on a disk.
    fn kv(&self, sink: &str, table: &str, key: &[String]) -> Result<Option<serde_json::Value>>;
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ComponentState {
    /// "source mqtt", "sink lake", "state", ...
    pub component: String,
    pub ready: bool,
    /// For people: empty, or what it waits for.
    pub detail: String,
}

pub struct Settings {
    /// "host:port"; port 0 takes a free one. None: not served.
    pub http: Option<String>,
    pub flight: Option<String>,
    pub query: QuerySettings,
    /// Bearer tokens, any of which may read. None: everyone may.
    pub tokens: Vec<String>,
    /// None: in clear text.
    pub tls: Option<Identity>,
}

/// Ports that are taken and not served yet: a client that connects waits.
pub struct Bound {
    http: Option<TcpListener>,
    flight: Option<TcpListener>,
    settings: Settings,
}

/// Running servers. Dropping this does not stop them; `shutdown` does.
pub struct Servers {
    pub http_addr: Option<SocketAddr>,
    pub flight_addr: Option<SocketAddr>,
    /// What they answer from, for callers in the same process.
    pub queries: Queries,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// Time for requests under way to end after queries were cancelled. Then connections are cut.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// Takes the ports, so that one in use is said before a pipeline starts and claims its chain.
pub async fn bind(settings: Settings) -> Result<Bound> {
    let http = listen("http", settings.http.as_deref()).await?;
    let flight = listen("flight", settings.flight.as_deref()).await?;
    Ok(Bound { http, flight, settings })
}

impl Bound {
    /// Must be called on a runtime: the servers are tasks of it.
    pub fn serve(self, facade: Arc<dyn Facade>) -> Result<Servers> {
        let Bound { http, flight, settings } = self;
        let http_addr = http.as_ref().map(local).transpose()?;
        let flight_addr = flight.as_ref().map(local).transpose()?;
        let world: Arc<dyn World> = facade.clone();
        let queries = Queries::new(world, settings.query).map_err(|e| Error::Failed(e.to_string()))?;
        let access = Arc::new(Access::new(settings.tokens));
        let (guarded, tls) = (!access.is_open(), settings.tls.is_some());
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        if let Some(http) = http {
            let shared = http::Shared { facade, queries: queries.clone(), access: access.clone() };
            tasks.push(tokio::spawn(http::serve(http, settings.tls.clone(), shared, stop.clone())));
        }
        if let Some(flight) = flight {
            tasks.push(tokio::spawn(flight::serve(flight, settings.tls, queries.clone(), access, stop.clone())));
        }
        let shown = |addr: &Option<SocketAddr>| addr.map_or("off".to_string(), |addr| addr.to_string());
        tracing::info!(http = %shown(&http_addr), flight = %shown(&flight_addr), tls, tokens = guarded, "serving");
        Ok(Servers { http_addr, flight_addr, queries, stop, tasks })
    }
}

impl Servers {
    /// Stops taking requests, cancels queries, lets answers under way end, then cuts what is left.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.queries.running().cancel_all();
        for mut task in self.tasks {
            match tokio::time::timeout(SHUTDOWN_GRACE, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::error!(error = %e, "a server ended badly"),
                Err(_) => {
                    tracing::warn!("answers were still under way and are cut off");
                    task.abort();
                }
            }
        }
    }
}

async fn listen(what: &str, address: Option<&str>) -> Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    TcpListener::bind(address).await.map(Some).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => Error::refused(
            format!("{what} address {address} is in use by another process"),
            format!("stop that process, or set another {what} under [server]; port 0 takes a free one."),
        ),
        _ => Error::refused(
            format!("cannot listen for {what} on {address}: {e}"),
            format!("set {what} under [server] to an address of this machine, such as 127.0.0.1:0."),
        ),
    })
}

fn local(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|e| Error::Failed(format!("a listening socket has no address: {e}")))
}
