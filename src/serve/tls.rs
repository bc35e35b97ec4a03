//! TLS for both servers: a certificate and its key from PEM files, checked before anything starts.
//!
//! Flight gives them to tonic. HTTP takes connections here: handshakes go on side by side, so that a client that never
//! finishes its own holds up nobody. tokio-rustls comes by way of rumqttc, which has it anyway.

use crate::types::error::{Error, Result};
use axum::serve::Listener;
use rumqttc::tokio_rustls::TlsAcceptor;
use rumqttc::tokio_rustls::server::TlsStream;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::transport::ServerTlsConfig;

/// A client that has not finished its handshake by then is cut off.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Handshakes under way at a time; further clients wait in the socket's own queue.
const HANDSHAKES_MAX: usize = 64;

/// Who the servers are. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    http: Arc<ServerConfig>,
    flight: ServerTlsConfig,
}

impl Identity {
    pub fn read(cert: &Path, key: &Path) -> Result<Identity> {
        let read = |what: &str, path: &Path| {
            std::fs::read(path).map_err(|e| {
                Error::refused(
                    format!("the {what} \"{}\" of [server] tls cannot be read: {e}", path.display()),
                    "Give the path of a PEM file that this user may read, relative to the config file.",
                )
            })
        };
        let (cert_pem, key_pem) = (read("certificate", cert)?, read("key", key)?);
        let unfit = |what: &str, path: &Path, why: String| {
            Error::refused(
                format!("the {what} \"{}\" of [server] tls is of no use: {why}", path.display()),
                "cert is PEM with the server's certificate first, key is PEM with its private key.",
            )
        };
        let chain: Vec<CertificateDer> = CertificateDer::pem_slice_iter(&cert_pem)
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| unfit("certificate", cert, e.to_string()))?;
        if chain.is_empty() {
            return Err(unfit("certificate", cert, "there is no certificate in it".into()));
        }
        let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|e| unfit("key", key, e.to_string()))?;
        let mut http = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, private))
            .map_err(|e| unfit("key", key, e.to_string()))?;
        http.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let flight = ServerTlsConfig::new().identity(tonic::transport::Identity::from_pem(cert_pem, key_pem));
        Ok(Identity { http: Arc::new(http), flight })
    }

    pub fn flight(&self) -> ServerTlsConfig {
        self.flight.clone()
    }

    pub fn http(&self, listener: TcpListener) -> TlsListener {
        TlsListener { listener, acceptor: TlsAcceptor::from(self.http.clone()), shaking: JoinSet::new() }
    }
}

/// Connections whose handshake is done.
pub struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shaking: JoinSet<io::Result<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    /// Cancel-safe: handshakes under way stay in `self`.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                Some(shaken) = self.shaking.join_next() => match shaken {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(e)) => failed(&e),
                    Err(e) => failed(&e),
                },
                (stream, address) = Listener::accept(&mut self.listener), if self.shaking.len() < HANDSHAKES_MAX => {
                    let shake = self.acceptor.accept(stream);
                    self.shaking.spawn(async move { Ok((tokio::time::timeout(HANDSHAKE_MAX, shake).await??, address)) });
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Scanners and clients that trust somebody else: counted, and no reason for an operator to be woken.
fn failed(error: &dyn std::error::Error) {
    metrics::counter!("pipe_http_handshakes_failed_total").increment(1);
    tracing::debug!(error = %error, "a TLS handshake failed");
}
