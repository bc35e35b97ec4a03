//! One session at the broker, over as many connections as it takes: subscribe, journal, acknowledge; after an error, again.
//!
//! Polling never waits for the pipeline, so keep-alives go on. Back-pressure is an acknowledgement that does not come:
//! the broker stops at its window of unacknowledged messages (`receive_maximum`, or its own). Should even the journal's
//! queue be full, the connection is closed after what is in it was acknowledged: the rest comes again when there is room.

use crate::env::clock::Clock;
use crate::journal::entry::Entry;
use crate::journal::{Appender, OnDurable, QueueFull};
use crate::sources::SourceStatus;
use crate::sources::mqtt::client::{Ack, Client, Incoming, Options, Received};
use rand::Rng;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// At the end of a connection, how long acknowledgements of what is in the journal may take. Later: the broker sends it again.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What all sessions of a source share.
pub struct Common {
    pub name: Arc<str>,
    pub appender: Appender,
    pub status: Arc<SourceStatus>,
    pub stop: CancellationToken,
    pub clock: Clock,
    /// Sessions that are subscribed; the source is up when all are.
    pub up: AtomicUsize,
    pub sessions: usize,
    /// Something was received under these client ids before this start.
    pub was_here: bool,
}

/// What lasts from one connection of a session to the next.
struct Session {
    /// The broker should know the session.
    was_here: bool,
    /// This process has subscribed in it, with the filters it has.
    is_subscribed: bool,
}

/// Why a connection ended.
enum Ended {
    Stopped,
    /// For people. Trying again may help.
    Lost(String),
}

/// Runs until `stop`. What a retry can mend is retried, with growing pauses.
pub async fn run(common: &Common, options: &Options) {
    let mut backoff = Backoff::default();
    let mut session = Session { was_here: common.was_here, is_subscribed: false };
    loop {
        tokio::select! {
            () = common.appender.room() => {}
            () = common.stop.cancelled() => return,
        }
        let why = match Connection::new(common, options).run(&mut session, &mut backoff).await {
            Ended::Stopped => return,
            Ended::Lost(why) => why,
        };
        let pause = backoff.next();
        let address = options.config.address();
        let broker = format!("{}:{}", address.host, address.port);
        common.status.down(format!("{why}, at {broker}; trying again in {:.1} s", pause.as_secs_f64()));
        common.status.reconnects.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            source = %common.name, client_id = %options.client_id, %broker, error = %why,
            pause_ms = pause.as_millis() as u64, "not connected to the MQTT broker, trying again"
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = common.stop.cancelled() => return,
        }
    }
}

struct Connection<'a> {
    common: &'a Common,
    options: &'a Options,
    client: Client,
    unacknowledged: Arc<Unacknowledged>,
    is_up: bool,
    /// QoS 0 messages dropped since the queue was last short.
    dropped: u64,
    /// Acknowledgements that wait for the last message that was given to the journal.
    behind: Arc<Behind>,
}

/// Acknowledgements of messages that were refused: they go out behind those of the messages before them, because a broker
/// may count on the order. `None`: those have gone out, so that there is nothing to wait for.
#[derive(Default)]
struct Behind(Mutex<Option<Vec<Ack>>>);

/// Messages of this connection that are in the journal's queue or on its way to the disk.
#[derive(Default)]
struct Unacknowledged {
    count: AtomicU64,
    none: Notify,
}

impl<'a> Connection<'a> {
    fn new(common: &'a Common, options: &'a Options) -> Self {
        let client = Client::new(options);
        Connection {
            common,
            options,
            client,
            unacknowledged: Arc::default(),
            is_up: false,
            dropped: 0,
            behind: Arc::default(),
        }
    }

    async fn run(mut self, session: &mut Session, backoff: &mut Backoff) -> Ended {
        let stop = self.common.stop.clone();
        loop {
            let event = tokio::select! {
                event = self.client.poll() => event,
                () = stop.cancelled() => {
                    self.drain().await;
                    return Ended::Stopped;
                }
            };
            let event = match event {
                Ok(event) => event,
                Err(why) => return Ended::Lost(why),
            };
            let lost = match event {
                Incoming::Connected { session_present } => self.connected(session_present, session, backoff),
                Incoming::Subscribed(granted) => self.subscribed(&granted).map(|()| {
                    session.is_subscribed = true;
                    self.is_ready(backoff);
                }),
                Incoming::Message(message) => {
                    if self.take(message) {
                        continue;
                    }
                    // What was taken is acknowledged first: so every connection gets further than the one before.
                    self.drain().await;
                    return Ended::Lost(
                        "the journal does not keep up; the broker keeps the messages until it does".into(),
                    );
                }
                Incoming::Nothing => Ok(()),
            };
            if let Err(why) = lost {
                return Ended::Lost(why);
            }
        }
    }

    /// Subscribes whenever the session may lack our filters, and not otherwise: MQTT 3.1.1 brokers send their retained
    /// messages again for every subscription, known or not.
    fn connected(&mut self, session_present: bool, session: &mut Session, backoff: &mut Backoff) -> Result<(), String> {
        let Common { name, .. } = self.common;
        tracing::info!(source = %name, client_id = %self.options.client_id, session_present, "connected to the MQTT broker");
        if session.was_here && !session_present && !self.options.config.clean_session {
            tracing::warn!(
                source = %name, client_id = %self.options.client_id,
                "the broker does not know our session any more (expired, or the broker lost it): what was published while \
                 we were away, and what it had not sent yet, may be lost"
            );
            metrics::counter!("pipe_mqtt_sessions_lost_total", "component" => name.to_string()).increment(1);
        }
        session.was_here = true;
        if session_present && session.is_subscribed {
            self.is_ready(backoff);
            return Ok(());
        }
        session.is_subscribed = false;
        self.client.subscribe(&self.options.filters, self.options.config.qos)
    }

    fn subscribed(&mut self, granted: &[Result<u8, String>]) -> Result<(), String> {
        for (filter, granted) in self.options.filters.iter().zip(granted) {
            match granted {
                Err(why) => return Err(format!("the broker refuses the subscription to \"{filter}\": {why}")),
                Ok(qos) if *qos < self.options.config.qos => tracing::warn!(
                    source = %self.common.name, filter, qos,
                    "the broker grants a lower QoS than asked for: messages may be lost while we are away"
                ),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    fn is_ready(&mut self, backoff: &mut Backoff) {
        backoff.reset();
        if !self.is_up {
            self.is_up = true;
            if self.common.up.fetch_add(1, Ordering::Relaxed) + 1 == self.common.sessions {
                self.common.status.up();
            }
        }
    }

    /// False: there is no room for it. This connection must take no later message either, or the order would change.
    fn take(&mut self, message: Received) -> bool {
        let status = &self.common.status;
        status.messages_in.fetch_add(1, Ordering::Relaxed);
        status.bytes_in.fetch_add(message.payload.len() as u64, Ordering::Relaxed);
        if message.packet_bytes() > self.options.config.packet_bytes_max.0 {
            self.refuse(&message);
            return true;
        }
        if message.qos() == 0 {
            self.keep_or_drop(message);
            return true;
        }
        let ack = self.client.ack(&message);
        let (unacknowledged, behind) = (self.unacknowledged.clone(), Arc::new(Behind(Mutex::new(Some(Vec::new())))));
        let then = behind.clone();
        // I1: the journal calls this after its sync, in the order of arrival.
        let on_durable: OnDurable = Box::new(move || {
            ack.send();
            then.send();
            unacknowledged.less();
        });
        self.unacknowledged.count.fetch_add(1, Ordering::SeqCst);
        let Err(QueueFull(_)) = self.common.appender.try_append(self.entry(message), Some(on_durable)) else {
            self.behind = behind;
            return true;
        };
        self.unacknowledged.less();
        false
    }

    /// Above `packet_bytes_max`. Acknowledged all the same: the broker would send it again for ever, and so many of them
    /// would use up its window of unacknowledged messages.
    fn refuse(&mut self, message: &Received) {
        let bytes = message.packet_bytes();
        let bytes_max = self.options.config.packet_bytes_max.0;
        tracing::error!(
            source = %self.common.name, topic = %message.topic, bytes, packet_bytes_max = bytes_max,
            "a message is refused and lost: its packet is larger than \"packet_bytes_max\"; raise that setting to take the next one"
        );
        metrics::counter!("pipe_mqtt_refused_messages_total", "component" => self.common.name.to_string()).increment(1);
        if message.qos() > 0 {
            self.behind.push(self.client.ack(message));
        }
    }

    /// Nobody sends a QoS 0 message again and nothing can hold it back. Half of the queue is kept for the others.
    fn keep_or_drop(&mut self, message: Received) {
        let is_short = self.common.appender.is_half_full();
        if !is_short && self.common.appender.try_append(self.entry(message), None).is_ok() {
            if self.dropped > 0 {
                tracing::warn!(source = %self.common.name, messages = self.dropped, "QoS 0 messages were dropped");
                self.dropped = 0;
            }
            return;
        }
        if self.dropped == 0 {
            tracing::warn!(source = %self.common.name, "the journal's queue is full: dropping QoS 0 messages");
        }
        self.dropped += 1;
        metrics::counter!("pipe_mqtt_dropped_messages_total", "component" => self.common.name.to_string()).increment(1);
    }

    fn entry(&self, message: Received) -> Entry {
        Entry {
            received_at_us: self.common.clock.now_us(),
            topic: message.topic,
            flags: message.flags,
            headers: message.headers,
            payload: message.payload,
        }
    }

    /// The end: acknowledges what is in the journal, takes nothing more, says good-bye. So a clean stop brings no message
    /// twice.
    async fn drain(&mut self) {
        let unacknowledged = self.unacknowledged.clone();
        let finish = async {
            let mut is_leaving = false;
            loop {
                let event = tokio::select! {
                    event = self.client.poll() => event,
                    () = unacknowledged.wait_for_none(), if !is_leaving => {
                        is_leaving = true;
                        self.client.disconnect().map(|()| Incoming::Nothing)
                    }
                };
                match event {
                    // The broker closes, not we: closing with messages unread would reset the connection, and the broker
                    // could lose the acknowledgements that it has not read yet.
                    Err(_) => return,
                    // Messages that still come are neither kept nor acknowledged: the broker has them.
                    Ok(_) => {}
                }
            }
        };
        let ended = tokio::time::timeout(DRAIN_TIMEOUT, finish).await;
        let messages = unacknowledged.count.load(Ordering::SeqCst);
        if ended.is_err() && messages > 0 {
            tracing::warn!(
                source = %self.common.name, messages,
                "the connection is closed with messages not acknowledged: the broker sends them again"
            );
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        if self.is_up {
            self.common.up.fetch_sub(1, Ordering::Relaxed);
        }
        if self.dropped > 0 {
            tracing::warn!(source = %self.common.name, messages = self.dropped, "QoS 0 messages were dropped");
        }
    }
}

impl Behind {
    fn push(&self, ack: Ack) {
        // A std mutex: nothing awaits while it is held. Held while sending, so that two pushes keep their order.
        let mut waiting = self.0.lock().expect("no holder panics");
        match waiting.as_mut() {
            Some(waiting) => waiting.push(ack),
            None => ack.send(),
        }
    }

    fn send(&self) {
        let mut waiting = self.0.lock().expect("no holder panics");
        waiting.take().into_iter().flatten().for_each(Ack::send);
    }
}

impl Unacknowledged {
    fn less(&self) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.none.notify_waiters();
        }
    }

    async fn wait_for_none(&self) {
        loop {
            let changed = self.none.notified();
            if self.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// Doubles from a quarter of a second to half a minute; half of it is chance, so that a fleet of clients does not come
/// back at once.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let full = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX);
        self.failures += 1;
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_again() {
        let mut backoff = Backoff::default();
        for failures in 0..40u32 {
            let full = BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
            let pause = backoff.next();
            assert!(pause >= full / 2 && pause <= full, "{failures}: {pause:?}");
        }
        assert!(backoff.next() >= BACKOFF_MAX / 2);
        backoff.reset();
        assert!(backoff.next() <= BACKOFF_MIN);
    }
}
