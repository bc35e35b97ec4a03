//! A broker for tests that does as its script says: small windows, connections closed in the middle, refusals.
//!
//! It keeps every message until it is acknowledged, gives out the lowest free packet id (so that a stale acknowledgement
//! would hit another message), and checks that acknowledgements come in order.

use crate::journal;
use bytes::{Buf, BufMut, BytesMut};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

#[derive(Clone)]
pub struct Script {
    /// Messages sent and not acknowledged, at most.
    pub window: usize,
    pub qos: u8,
    /// The first connection is closed after so many messages, and so on.
    pub close_after: Vec<usize>,
    pub refuse_connect: bool,
    pub refuse_subscribe: bool,
    /// 0: the payload is the message's number. Else it is padded to this.
    pub payload_bytes: usize,
    /// Only the payload of this message is.
    pub only_large: Option<u64>,
    /// The payload is nothing at all.
    pub is_empty: bool,
    /// From the second connection on, the session is there with its subscriptions.
    pub keeps_session: bool,
    /// What was not acknowledged comes last again, so that packet ids mean other messages.
    pub redelivers_last: bool,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            window: 100,
            qos: 1,
            close_after: vec![],
            refuse_connect: false,
            refuse_subscribe: false,
            payload_bytes: 0,
            only_large: None,
            is_empty: false,
            keeps_session: false,
            redelivers_last: false,
        }
    }
}

pub struct Broker {
    pub port: u16,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<u64>,
    /// Of all sessions: message -> not acknowledged.
    in_flight: BTreeSet<u64>,
    acknowledged: u64,
    connects: usize,
    connected: usize,
    subscribes: usize,
    /// Of the last SUBSCRIBE: QoS, and with MQTT 5 what to do with retained messages.
    subscribe_options: u8,
    /// Of the last CONNECT with MQTT 5.
    property_ids: Vec<u8>,
    pings: usize,
}

struct Shared {
    script: Script,
    state: Mutex<State>,
    news: Notify,
}

impl Broker {
    pub async fn start(script: Script) -> Broker {
        Broker::start_at(0, script).await
    }

    pub async fn start_at(port: u16, script: Script) -> Broker {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared { script, state: Mutex::default(), news: Notify::new() });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Broker { port, shared, accepting }
    }

    pub async fn stop(&self) {
        self.accepting.abort();
        while !self.accepting.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    pub fn publish(&self, numbers: Range<u64>) {
        self.shared.state().queue.extend(numbers);
        self.shared.news.notify_waiters();
    }

    pub fn unacknowledged(&self) -> usize {
        self.shared.state().in_flight.len()
    }

    pub fn acknowledged(&self) -> u64 {
        self.shared.state().acknowledged
    }

    pub fn connects(&self) -> usize {
        self.shared.state().connects
    }

    pub fn connected(&self) -> usize {
        self.shared.state().connected
    }

    pub fn subscribes(&self) -> usize {
        self.shared.state().subscribes
    }

    pub fn subscribe_options(&self) -> u8 {
        self.shared.state().subscribe_options
    }

    pub fn property_ids(&self) -> Vec<u8> {
        self.shared.state().property_ids.clone()
    }

    pub fn pings(&self) -> usize {
        self.shared.state().pings
    }

    /// Messages that are in the journal and will be sent again: must be none after a clean stop.
    pub fn unacknowledged_and_journaled(&self, data_dir: &Path) -> u64 {
        let dir = journal::directory(data_dir, "fleet");
        let chain = journal::bound_chain(&dir).expect("reads").expect("bound");
        let options = journal::JournalOptions::with_budget(1 << 30, 0);
        let journal = journal::Journal::open(&dir, &chain, Default::default(), options).expect("opens");
        let journaled = journal.durable().borrow().to.0;
        journaled - self.acknowledged()
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("the listener is sound");
        let shared = shared.clone();
        connections.spawn(async move {
            let number = {
                let mut state = shared.state();
                state.connects += 1;
                state.connected += 1;
                state.connects - 1
            };
            let mut session = Session {
                stream,
                shared: shared.clone(),
                v5: false,
                free_ids: BTreeSet::new(),
                fresh_id: 1,
                sent: VecDeque::new(),
            };
            // However it ended, the client or the script closed it.
            let close_after = shared.script.close_after.get(number).copied();
            let is_known = shared.script.keeps_session && number > 0;
            if let Err(e) = session.serve(close_after, is_known).await {
                tracing::debug!("the connection ended: {e}");
            }
            // In the order they were sent in, before everything else.
            let mut state = shared.state();
            for (_, message) in session.sent.iter().rev() {
                state.in_flight.remove(message);
                if !shared.script.redelivers_last {
                    state.queue.push_front(*message);
                }
            }
            if shared.script.redelivers_last {
                state.queue.extend(session.sent.iter().map(|(_, message)| *message));
            }
            state.connected -= 1;
        });
    }
}

struct Session {
    stream: TcpStream,
    shared: Arc<Shared>,
    v5: bool,
    /// Packet ids that were used and are free again; those never used begin at `fresh_id`.
    free_ids: BTreeSet<u16>,
    fresh_id: u16,
    /// (packet id, message), as sent.
    sent: VecDeque<(u16, u64)>,
}

impl Session {
    async fn serve(&mut self, close_after: Option<usize>, is_known: bool) -> std::io::Result<()> {
        let (mut input, mut subscribed, mut delivered) = (BytesMut::new(), false, 0);
        let shared = self.shared.clone();
        loop {
            while let Some((kind, body)) = packet(&mut input) {
                match kind >> 4 {
                    1 => {
                        self.connect(&body, is_known).await?;
                        subscribed = is_known;
                    }
                    8 => {
                        self.subscribe(&body).await?;
                        subscribed = true;
                    }
                    4 => self.acknowledge(&body),
                    12 => {
                        shared.state().pings += 1;
                        self.stream.write_all(&[0xD0, 0]).await?;
                    }
                    14 => return Ok(()),
                    other => panic!("the client sent a packet of kind {other}"),
                }
            }
            let news = shared.news.notified();
            while subscribed && !shared.script.refuse_subscribe && self.sent.len() < shared.script.window {
                if close_after.is_some_and(|n| delivered >= n) {
                    return Ok(());
                }
                let Some(message) = shared.state().queue.pop_front() else { break };
                self.deliver(message).await?;
                delivered += 1;
            }
            tokio::select! {
                read = self.stream.read_buf(&mut input) => if read? == 0 { return Ok(()) },
                () = news => {}
            }
        }
    }

    async fn connect(&mut self, body: &[u8], is_known: bool) -> std::io::Result<()> {
        self.v5 = body[6] == 5;
        if self.v5 {
            self.shared.state().property_ids = property_ids(&body[11..11 + body[10] as usize]);
        }
        let code = match (self.shared.script.refuse_connect, self.v5) {
            (false, _) => 0,
            (true, false) => 5,
            (true, true) => 0x87,
        };
        let ack: &[u8] = if self.v5 { &[0x20, 3, is_known as u8, code, 0] } else { &[0x20, 2, is_known as u8, code] };
        self.stream.write_all(ack).await
    }

    async fn subscribe(&mut self, body: &[u8]) -> std::io::Result<()> {
        self.shared.state().subscribes += 1;
        self.shared.state().subscribe_options = *body.last().expect("a filter has options");
        let code = if self.shared.script.refuse_subscribe { 0x80 } else { self.shared.script.qos };
        let ack =
            if self.v5 { vec![0x90, 4, body[0], body[1], 0, code] } else { vec![0x90, 3, body[0], body[1], code] };
        self.stream.write_all(&ack).await
    }

    async fn deliver(&mut self, message: u64) -> std::io::Result<()> {
        let script = &self.shared.script;
        let mut body = BytesMut::new();
        let topic = format!("fleet/v{}/kinematic", message % 10);
        body.put_u16(topic.len() as u16);
        body.put_slice(topic.as_bytes());
        if script.qos > 0 {
            let id = self.free_ids.pop_first().unwrap_or(self.fresh_id);
            self.fresh_id = self.fresh_id.max(id + 1);
            body.put_u16(id);
            self.sent.push_back((id, message));
            self.shared.state().in_flight.insert(message);
        }
        let number = message.to_string();
        if self.v5 {
            // One user property: n = the number.
            body.put_u8(6 + number.len() as u8);
            body.put_slice(&[0x26, 0, 1, b'n', 0, number.len() as u8]);
            body.put_slice(number.as_bytes());
        }
        if !script.is_empty {
            body.put_slice(number.as_bytes());
        }
        let bytes = if script.only_large.is_none_or(|large| large == message) { script.payload_bytes } else { 0 };
        body.put_bytes(b' ', bytes.saturating_sub(number.len()));
        let mut out = BytesMut::new();
        out.put_u8(0x30 | (script.qos << 1));
        let mut left = body.len();
        while left >= 128 {
            out.put_u8((left % 128) as u8 | 128);
            left /= 128;
        }
        out.put_u8(left as u8);
        out.put_slice(&body);
        self.stream.write_all(&out).await
    }

    fn acknowledge(&mut self, body: &[u8]) {
        let id = u16::from_be_bytes([body[0], body[1]]);
        let (expected, message) = self.sent.pop_front().expect("something was sent");
        assert_eq!(id, expected, "acknowledgements come in the order of the messages");
        self.free_ids.insert(id);
        let mut state = self.shared.state();
        state.in_flight.remove(&message);
        state.acknowledged += 1;
    }
}

/// The properties a CONNECT of ours may have, by their ids.
fn property_ids(mut properties: &[u8]) -> Vec<u8> {
    let mut ids = Vec::new();
    while let Some((id, rest)) = properties.split_first() {
        let bytes = match id {
            0x17 | 0x19 => 1,
            0x21 | 0x22 => 2,
            0x11 | 0x27 => 4,
            other => panic!("CONNECT has property {other:#x}"),
        };
        ids.push(*id);
        properties = &rest[bytes..];
    }
    ids
}

/// The next whole packet: its first byte and its body.
fn packet(input: &mut BytesMut) -> Option<(u8, BytesMut)> {
    let (mut length, mut at) = (0usize, 1);
    loop {
        let byte = *input.get(at)?;
        length |= ((byte & 127) as usize) << (7 * (at - 1));
        at += 1;
        if byte < 128 {
            break;
        }
    }
    if input.len() < at + length {
        return None;
    }
    let kind = input[0];
    input.advance(at);
    Some((kind, input.split_to(length)))
}
