//! One connection to a broker, the same for MQTT 3.1.1 and 5: what comes in, subscribing, acknowledging.
//!
//! A client serves one connection and is thrown away with it. So an acknowledgement that was meant for it can never reach
//! the next one, where its packet id would stand for another message: the connection generation is the client itself.

use crate::journal::entry::{QOS_MASK, REDELIVERED, RETAINED};
use crate::sources::mqtt::config::{MqttConfig, RECEIVE_MAXIMUM};
use crate::types::limit::MESSAGE_BYTES_MAX;
use crate::types::message::Headers;
use bytes::Bytes;
use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5 as packets5;
use rumqttc::{self as v4, TlsConfiguration, Transport};
use std::sync::Arc;
use std::time::Duration;

/// Requests on their way out. Packet ids have 16 bits, so no broker can have more messages unacknowledged than this.
const REQUESTS_MAX: usize = u16::MAX as usize + 64;

/// We publish nothing; the library sets memory aside for this many.
const OUTGOING_MAX: u16 = 16;

/// Everything a connection needs, secrets looked up. No `Debug` (I12).
#[derive(Clone)]
pub struct Options {
    pub config: Arc<MqttConfig>,
    pub client_id: String,
    pub filters: Vec<String>,
    pub password: Option<String>,
    pub tls: Option<TlsFiles>,
}

/// Contents of the PEM files.
#[derive(Clone)]
pub struct TlsFiles {
    pub ca: Option<Vec<u8>>,
    /// Certificate and private key.
    pub own: Option<(Vec<u8>, Vec<u8>)>,
}

pub enum Incoming {
    Connected {
        session_present: bool,
    },
    /// One entry per filter: the granted QoS, or why not.
    Subscribed(Vec<Result<u8, String>>),
    Message(Received),
    /// Pings and the like.
    Nothing,
}

pub struct Received {
    pub topic: Arc<str>,
    /// As in `journal::entry`.
    pub flags: u8,
    pub headers: Option<Arc<Headers>>,
    pub payload: Bytes,
    packet_id: u16,
}

impl Received {
    pub fn qos(&self) -> u8 {
        self.flags & QOS_MASK
    }

    /// Of the whole packet; MQTT 5's properties are left out.
    pub fn packet_bytes(&self) -> u64 {
        let body = 2 + self.topic.len() + if self.qos() > 0 { 2 } else { 0 } + self.payload.len();
        // The first byte, and seven bits of the length in each byte.
        1 + (body.max(1).ilog2() as u64 / 7 + 1) + body as u64
    }
}

pub enum Client {
    V4(Box<v4::EventLoop>, v4::AsyncClient),
    V5(Box<v5::EventLoop>, v5::AsyncClient),
}

/// Acknowledges one message on the connection it came from. After that connection it does nothing.
pub enum Ack {
    V4(v4::AsyncClient, u16),
    V5(v5::AsyncClient, u16),
}

impl Ack {
    pub fn send(self) {
        let sent = match self {
            Ack::V4(client, packet_id) => {
                let mut publish = v4::Publish::new("", v4::QoS::AtLeastOnce, Vec::new());
                publish.pkid = packet_id;
                client.try_ack(&publish).is_ok()
            }
            Ack::V5(client, packet_id) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client.try_ack(&packets5::Publish { qos, pkid: packet_id, ..Default::default() }).is_ok()
            }
        };
        if !sent {
            // REQUESTS_MAX holds every packet id, so only the end of the connection can be the reason: the broker sends
            // the message again.
            tracing::debug!("an acknowledgement came after its connection had ended");
        }
    }
}

impl Client {
    /// Connects at the first `poll`.
    pub fn new(options: &Options) -> Client {
        if options.config.protocol == 5 { new_v5(options) } else { new_v4(options) }
    }

    /// The next thing that happens. Sends what is to be sent, pings included, so it must be called all the time. The error
    /// is for people, and the end of this client.
    pub async fn poll(&mut self) -> Result<Incoming, String> {
        match self {
            Client::V4(events, _) => match events.poll().await {
                Ok(event) => Ok(incoming_v4(event)),
                Err(e) => Err(why_v4(e)),
            },
            Client::V5(events, _) => match events.poll().await {
                Ok(event) => Ok(incoming_v5(event)),
                Err(e) => Err(why_v5(e)),
            },
        }
    }

    pub fn subscribe(&self, filters: &[String], qos: u8) -> Result<(), String> {
        let sent = match self {
            Client::V4(_, client) => {
                let qos = if qos == 0 { v4::QoS::AtMostOnce } else { v4::QoS::AtLeastOnce };
                let filters = filters.iter().map(|f| v4::SubscribeFilter::new(f.clone(), qos));
                client.try_subscribe_many(filters).map_err(|e| e.to_string())
            }
            Client::V5(_, client) => {
                let qos = if qos == 0 { v5::mqttbytes::QoS::AtMostOnce } else { v5::mqttbytes::QoS::AtLeastOnce };
                let filters = filters.iter().map(|f| {
                    let mut filter = packets5::Filter::new(f.clone(), qos);
                    // Retained messages once, not again after every connect.
                    filter.retain_forward_rule = packets5::RetainForwardRule::OnNewSubscribe;
                    filter
                });
                client.try_subscribe_many(filters).map_err(|e| e.to_string())
            }
        };
        sent.map_err(|e| format!("cannot subscribe: {e}"))
    }

    pub fn ack(&self, message: &Received) -> Ack {
        match self {
            Client::V4(_, client) => Ack::V4(client.clone(), message.packet_id),
            Client::V5(_, client) => Ack::V5(client.clone(), message.packet_id),
        }
    }

    /// Queued behind the acknowledgements; `poll` until the broker has closed the connection.
    pub fn disconnect(&self) -> Result<(), String> {
        match self {
            Client::V4(_, client) => client.try_disconnect().map_err(|e| e.to_string()),
            Client::V5(_, client) => client.try_disconnect().map_err(|e| e.to_string()),
        }
    }
}

fn new_v4(options: &Options) -> Client {
    let (config, (host, port)) = (&options.config, host_port(options));
    let mut o = v4::MqttOptions::new(options.client_id.clone(), host, port);
    let packet_bytes_max = packet_bytes_taken(config) as usize;
    o.set_keep_alive(keep_alive(options))
        .set_clean_session(config.clean_session)
        .set_manual_acks(true)
        .set_max_packet_size(packet_bytes_max, packet_bytes_max)
        .set_inflight(OUTGOING_MAX);
    if let Some(username) = &config.username {
        o.set_credentials(username, options.password.clone().unwrap_or_default());
    }
    if let Some(tls) = &options.tls {
        o.set_transport(transport(tls));
    }
    let (client, events) = v4::AsyncClient::new(o, REQUESTS_MAX);
    Client::V4(Box::new(events), client)
}

fn new_v5(options: &Options) -> Client {
    let (config, (host, port)) = (&options.config, host_port(options));
    let mut o = v5::MqttOptions::new(options.client_id.clone(), host, port);
    o.set_keep_alive(keep_alive(options))
        .set_clean_start(config.clean_session)
        .set_manual_acks(true)
        .set_max_packet_size(Some(packet_bytes_taken(config) as u32))
        .set_receive_maximum(Some(config.receive_maximum.unwrap_or(RECEIVE_MAXIMUM)))
        .set_outgoing_inflight_upper_limit(OUTGOING_MAX);
    if !config.clean_session {
        let seconds = config.session_expiry.as_secs().min(u32::MAX as u64) as u32;
        o.set_session_expiry_interval(Some(seconds));
    }
    if let Some(username) = &config.username {
        o.set_credentials(username, options.password.clone().unwrap_or_default());
    }
    if let Some(tls) = &options.tls {
        o.set_transport(transport(tls));
    }
    let (client, events) = v5::AsyncClient::new(o, REQUESTS_MAX);
    Client::V5(Box::new(events), client)
}

/// A packet above `packet_bytes_max` is taken from the wire up to here, so that it can be refused by name. One that is
/// larger still ends the connection (3.1.1), or is discarded by the broker (5).
fn packet_bytes_taken(config: &MqttConfig) -> u64 {
    config.packet_bytes_max.0.max(MESSAGE_BYTES_MAX as u64)
}

fn host_port(options: &Options) -> (String, u16) {
    let address = options.config.address();
    // The library joins host and port with ":" itself.
    let bare_v6 = address.host.contains(':');
    (if bare_v6 { format!("[{}]", address.host) } else { address.host }, address.port)
}

fn keep_alive(options: &Options) -> Duration {
    options.config.keep_alive.0
}

fn transport(tls: &TlsFiles) -> Transport {
    // The process has two providers in its tree; main installs ring's before anything connects, tests come here first.
    if rustls::crypto::CryptoProvider::get_default().is_none()
        && rustls::crypto::ring::default_provider().install_default().is_err()
    {
        tracing::debug!("another thread has installed a TLS provider");
    }
    match &tls.ca {
        Some(ca) => Transport::tls_with_config(TlsConfiguration::Simple {
            ca: ca.clone(),
            alpn: None,
            client_auth: tls.own.clone(),
        }),
        None => Transport::tls_with_default_config(),
    }
}

fn flags(qos: u8, retained: bool, redelivered: bool) -> u8 {
    qos | if retained { RETAINED } else { 0 } | if redelivered { REDELIVERED } else { 0 }
}

fn incoming_v4(event: v4::Event) -> Incoming {
    match event {
        v4::Event::Incoming(v4::Packet::ConnAck(ack)) => Incoming::Connected { session_present: ack.session_present },
        v4::Event::Incoming(v4::Packet::SubAck(ack)) => Incoming::Subscribed(
            ack.return_codes
                .into_iter()
                .map(|code| match code {
                    v4::SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                    v4::SubscribeReasonCode::Failure => Err("refused".to_string()),
                })
                .collect(),
        ),
        v4::Event::Incoming(v4::Packet::Publish(p)) => Incoming::Message(Received {
            topic: p.topic.into(),
            flags: flags(p.qos as u8, p.retain, p.dup),
            headers: None,
            payload: p.payload,
            packet_id: p.pkid,
        }),
        v4::Event::Incoming(_) | v4::Event::Outgoing(_) => Incoming::Nothing,
    }
}

fn incoming_v5(event: v5::Event) -> Incoming {
    match event {
        v5::Event::Incoming(packets5::Packet::ConnAck(ack)) => {
            Incoming::Connected { session_present: ack.session_present }
        }
        v5::Event::Incoming(packets5::Packet::SubAck(ack)) => Incoming::Subscribed(
            ack.return_codes
                .into_iter()
                .map(|code| match code {
                    packets5::SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                    refused => Err(format!("{refused:?}")),
                })
                .collect(),
        ),
        v5::Event::Incoming(packets5::Packet::Publish(p)) => {
            let properties = p.properties.map(|p| p.user_properties).unwrap_or_default();
            let headers = properties.into_iter().map(|(name, value)| (name.into(), Some(value.into())));
            let headers: Headers = headers.collect();
            Incoming::Message(Received {
                // The protocol demands UTF-8; a broker that lets other bytes through must not stop us.
                topic: String::from_utf8_lossy(&p.topic).into(),
                flags: flags(p.qos as u8, p.retain, p.dup),
                headers: (!headers.is_empty()).then(|| Arc::new(headers)),
                payload: p.payload,
                packet_id: p.pkid,
            })
        }
        v5::Event::Incoming(_) | v5::Event::Outgoing(_) => Incoming::Nothing,
    }
}

/// What to do about a packet that is too large is in the text; the rest is the library's.
fn too_large(bytes: usize) -> String {
    format!(
        "the broker sends a packet of {bytes} bytes, which is above \"packet_bytes_max\" and too large to be passed over; raise \
         it, or the message stays at the broker and is sent again after every connect"
    )
}

fn why_v4(e: v4::ConnectionError) -> String {
    match e {
        v4::ConnectionError::MqttState(v4::StateError::Deserialization(
            v4::mqttbytes::Error::PayloadSizeLimitExceeded(bytes),
        )) => too_large(bytes),
        v4::ConnectionError::MqttState(v4::StateError::ConnectionAborted) => "the broker closed the connection".into(),
        v4::ConnectionError::MqttState(v4::StateError::AwaitPingResp) => "the broker does not answer pings".into(),
        v4::ConnectionError::ConnectionRefused(code) => format!("the broker refuses the connection: {code:?}"),
        v4::ConnectionError::NetworkTimeout => "the broker does not answer".into(),
        v4::ConnectionError::Io(e) => e.to_string(),
        e => e.to_string(),
    }
}

fn why_v5(e: v5::ConnectionError) -> String {
    match e {
        v5::ConnectionError::MqttState(v5::StateError::Deserialization(
            v5::mqttbytes::Error::PayloadSizeLimitExceeded { pkt_size, .. },
        )) => too_large(pkt_size),
        v5::ConnectionError::MqttState(v5::StateError::ConnectionAborted) => "the broker closed the connection".into(),
        v5::ConnectionError::MqttState(v5::StateError::AwaitPingResp) => "the broker does not answer pings".into(),
        v5::ConnectionError::ConnectionRefused(code) => format!("the broker refuses the connection: {code:?}"),
        v5::ConnectionError::MqttState(v5::StateError::ServerDisconnect { reason_code, .. }) => {
            format!("the broker closed the connection: {reason_code:?}")
        }
        v5::ConnectionError::Timeout(_) => "the broker does not answer".into(),
        v5::ConnectionError::Io(e) => e.to_string(),
        e => e.to_string(),
    }
}
