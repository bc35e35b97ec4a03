//! Messages to an MQTT broker at QoS 1 over several connections; a vehicle keeps to one of them, and so its order.
//!
//! The unacknowledged messages are ours, not rumqttc's: it forgets them when a broker comes back without the session.
//! A lost connection is replaced by a new one, and what was not acknowledged is published again, in order. The broker
//! may have had it already; `republished` counts these.

use crate::simulate::options::wrong;
use crate::simulate::sent::Sent;
use crate::types::error::{Error, Result};
use bytes::Bytes;
use rumqttc::{AsyncClient, Event, EventLoop, Outgoing, Packet, QoS, Transport};
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

#[derive(Clone)]
pub struct MqttOptions {
    /// `mqtt://host:port` or `mqtts://host:port`
    pub url: String,
    pub client_id: String,
    pub user: Option<(String, String)>,
    /// PEM of the authority that signed the broker's certificate; without it the platform's are trusted.
    pub ca: Option<Vec<u8>>,
    pub connections: usize,
    /// Unacknowledged messages per connection.
    pub window: u16,
    /// How long a broker may be away before the run fails.
    pub patience: Duration,
}

impl Default for MqttOptions {
    fn default() -> Self {
        MqttOptions {
            url: "mqtt://127.0.0.1:1883".into(),
            client_id: "pipe-simulate".into(),
            user: None,
            ca: None,
            connections: 4,
            window: 100,
            patience: Duration::from_secs(30),
        }
    }
}

pub struct MqttOutput {
    lanes: Vec<Lane>,
}

struct Lane {
    messages: mpsc::Sender<(Arc<str>, Bytes)>,
    task: JoinHandle<Result<u64>>,
}

impl MqttOutput {
    pub fn connect(options: MqttOptions) -> Result<Self> {
        let client = client_options(&options)?;
        let lanes = (0..options.connections.max(1)).map(|number| {
            let mut client = client.clone();
            client.set_client_id(format!("{}-{number}", options.client_id));
            let (sender, receiver) = mpsc::channel(usize::from(options.window));
            let connection = Connection {
                options: client,
                window: usize::from(options.window),
                patience: options.patience,
                messages: receiver,
                unacknowledged: VecDeque::new(),
                republished: 0,
            };
            Lane { messages: sender, task: tokio::spawn(connection.run()) }
        });
        Ok(MqttOutput { lanes: lanes.collect() })
    }

    pub async fn send(&mut self, sent: &Sent) -> Result<()> {
        let mut hasher = DefaultHasher::new();
        sent.key.hash(&mut hasher);
        let number = hasher.finish() as usize % self.lanes.len();
        let lane = &mut self.lanes[number];
        if lane.messages.send((sent.topic.clone(), sent.payload.clone())).await.is_err() {
            // The lane has given up; its task knows why.
            let lane = self.lanes.swap_remove(number);
            drop(lane.messages);
            return Err(joined(lane.task)
                .await
                .err()
                .unwrap_or_else(|| Error::Failed("mqtt output: ended early".into())));
        }
        Ok(())
    }

    pub async fn finish(self) -> Result<u64> {
        let (senders, tasks): (Vec<_>, Vec<_>) = self.lanes.into_iter().map(|l| (l.messages, l.task)).unzip();
        drop(senders);
        let mut republished = 0;
        for task in tasks {
            republished += joined(task).await?;
        }
        Ok(republished)
    }
}

async fn joined(task: JoinHandle<Result<u64>>) -> Result<u64> {
    task.await.map_err(|e| Error::Failed(format!("mqtt output: {e}")))?
}

fn client_options(options: &MqttOptions) -> Result<rumqttc::MqttOptions> {
    let hint = "Write mqtt://host:1883 or mqtts://host:8883.";
    let url =
        url::Url::parse(&options.url).map_err(|e| wrong(format!("\"{}\" is no address: {e}", options.url), hint))?;
    let is_tls = match url.scheme() {
        "mqtt" => false,
        "mqtts" => true,
        other => return Err(wrong(format!("\"{other}\" is no MQTT scheme"), hint)),
    };
    let host = url.host_str().ok_or_else(|| wrong(format!("\"{}\" names no host", options.url), hint))?;
    let port = url.port().unwrap_or(if is_tls { 8883 } else { 1883 });
    let mut client = rumqttc::MqttOptions::new(&options.client_id, host, port);
    client.set_keep_alive(Duration::from_secs(30)).set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    client.set_inflight(options.window);
    if let Some((user, password)) = &options.user {
        client.set_credentials(user, password);
    }
    if is_tls {
        client.set_transport(match &options.ca {
            Some(ca) => Transport::tls(ca.clone(), None, None),
            None => Transport::tls_with_default_config(),
        });
    }
    Ok(client)
}

/// What AWS IoT takes, the smallest limit a fleet meets; our messages are a few kilobytes.
const PACKET_BYTES_MAX: usize = 128 * 1024;

/// One connection after the other for the same share of the messages.
struct Connection {
    options: rumqttc::MqttOptions,
    window: usize,
    patience: Duration,
    messages: mpsc::Receiver<(Arc<str>, Bytes)>,
    /// Taken and not yet acknowledged, in order. `None`: acknowledged, and waiting for those before it.
    unacknowledged: VecDeque<Option<(Arc<str>, Bytes)>>,
    republished: u64,
}

enum Ended {
    Done,
    Lost { why: String, was_connected: bool },
}

/// What the event loop's task reports.
enum News {
    Connected,
    /// The next message handed over got this packet id.
    Numbered(u16),
    Acknowledged(u16),
    Lost(String),
}

impl Connection {
    async fn run(mut self) -> Result<u64> {
        let mut away_since = tokio::time::Instant::now();
        loop {
            let (client, event_loop) = AsyncClient::new(self.options.clone(), self.window);
            let (sender, news) = mpsc::channel(self.window * 4);
            let poller = tokio::spawn(poll(event_loop, sender));
            let ended = self.serve(&client, news).await;
            poller.abort();
            let Ended::Lost { why, was_connected } = ended else { return Ok(self.republished) };
            if was_connected {
                away_since = tokio::time::Instant::now();
            }
            if away_since.elapsed() >= self.patience {
                let (host, port) = self.options.broker_address();
                return Err(Error::Unavailable(format!("mqtt output: broker {host}:{port} is away: {why}")));
            }
            tracing::warn!(client = %self.options.client_id(), error = %why, "connection lost, trying again");
            self.unacknowledged.retain(Option::is_some);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Publishes over one connection until all is acknowledged or the connection is lost.
    async fn serve(&mut self, client: &AsyncClient, mut news: mpsc::Receiver<News>) -> Ended {
        // Places are counted from the first message of this connection; `done` of them have left the front.
        let mut done = 0;
        let mut published = 0;
        let mut numbered = 0;
        let mut by_number: HashMap<u16, usize> = HashMap::new();
        let mut connected = false;
        let mut open = true;
        let again = self.unacknowledged.len();
        loop {
            if connected {
                while published - done < self.unacknowledged.len() {
                    let Some((topic, payload)) = &self.unacknowledged[published - done] else {
                        unreachable!("nothing is acknowledged before it is published")
                    };
                    // The window is the channel's size, so there is always room.
                    let handed = client.publish_bytes(topic.as_ref(), QoS::AtLeastOnce, false, payload.clone()).await;
                    if let Err(e) = handed {
                        return Ended::Lost { why: e.to_string(), was_connected: connected };
                    }
                    self.republished += u64::from(published < again);
                    published += 1;
                }
            }
            if !open && self.unacknowledged.is_empty() {
                return Ended::Done;
            }
            tokio::select! {
                message = self.messages.recv(), if open && connected && self.unacknowledged.len() < self.window => {
                    match message {
                        Some(message) => self.unacknowledged.push_back(Some(message)),
                        None => open = false,
                    }
                }
                event = news.recv() => match event.unwrap_or_else(|| News::Lost("event loop ended".into())) {
                    News::Connected => connected = true,
                    News::Numbered(number) => {
                        by_number.insert(number, numbered);
                        numbered += 1;
                    }
                    News::Acknowledged(number) => {
                        if let Some(place) = by_number.remove(&number) {
                            self.unacknowledged[place - done] = None;
                        }
                        while let Some(None) = self.unacknowledged.front() {
                            self.unacknowledged.pop_front();
                            done += 1;
                        }
                    }
                    News::Lost(why) => return Ended::Lost { why, was_connected: connected },
                }
            }
        }
    }
}

/// A task of its own, because polling must not be cancelled half way and keeps the connection alive.
async fn poll(mut event_loop: EventLoop, news: mpsc::Sender<News>) {
    loop {
        let item = match event_loop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => News::Connected,
            Ok(Event::Incoming(Packet::PubAck(ack))) => News::Acknowledged(ack.pkid),
            Ok(Event::Outgoing(Outgoing::Publish(number))) => News::Numbered(number),
            Ok(_) => continue,
            Err(e) => News::Lost(e.to_string()),
        };
        let is_last = matches!(item, News::Lost(_));
        if news.send(item).await.is_err() || is_last {
            return;
        }
    }
}
