//! An MQTT broker inside this process, for the demo and for tests: loopback, anonymous, in memory.
//!
//! Nothing of QoS 1 is dropped while a subscriber is slow: mqtt5's queue per client drops its oldest message at a
//! bound, and this bound is lifted. Its memory is then bounded by how far a subscriber falls behind the publishers; the
//! demo paces them. QoS 0 is dropped when a subscriber's lane is full, as MQTT allows.

use crate::types::error::{Error, Result};
use mqtt5::broker::config::{StorageBackend, StorageConfig};
use mqtt5::broker::{BrokerConfig, BrokerShutdownHandle, MqttBroker};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::task::JoinHandle;

/// Stops the broker when dropped; `stop` also waits for it.
pub struct BrokerHandle {
    shutdown: BrokerShutdownHandle,
    task: Option<JoinHandle<std::result::Result<(), String>>>,
}

/// Starts a broker on a loopback port (0: any free one) and returns when it accepts connections.
pub async fn start(port: u16) -> Result<(SocketAddr, BrokerHandle)> {
    let storage = StorageConfig::new()
        .with_backend(StorageBackend::Memory)
        .with_max_queued_messages_per_client(usize::MAX)
        .with_max_queued_bytes_per_client(usize::MAX);
    let config = BrokerConfig::new()
        .with_bind_address(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .with_max_packet_size(PACKET_BYTES_MAX)
        .with_storage(storage)
        .with_sys_topics_enabled(false);
    let failed =
        |e: mqtt5::MqttError| Error::Failed(format!("the demo's broker cannot listen on 127.0.0.1:{port}: {e}"));
    let mut broker = MqttBroker::with_config(config).await.map_err(failed)?;
    let address = broker.local_addr().ok_or_else(|| Error::Failed("the demo's broker has no address".into()))?;
    let shutdown = broker.shutdown_handle();
    let mut ready = broker.ready_receiver();
    let task = tokio::spawn(async move { broker.run().await.map_err(|e| e.to_string()) });
    let mut handle = BrokerHandle { shutdown, task: Some(task) };
    if ready.wait_for(|is_ready| *is_ready).await.is_err() {
        handle.stop().await?;
        return Err(Error::Failed("the demo's broker ended before it was ready".into()));
    }
    Ok((address, handle))
}

/// The same as the MQTT source's default.
const PACKET_BYTES_MAX: usize = 128 * 1024;

impl BrokerHandle {
    /// Ends the broker and waits for it.
    pub async fn stop(&mut self) -> Result<()> {
        self.shutdown.shutdown();
        let Some(task) = self.task.take() else { return Ok(()) };
        let ended = task.await.map_err(|e| e.to_string()).flatten();
        ended.map_err(|e| Error::Failed(format!("the demo's broker: {e}")))
    }
}

impl Drop for BrokerHandle {
    fn drop(&mut self) {
        self.shutdown.shutdown();
    }
}

#[cfg(test)]
mod tests;
