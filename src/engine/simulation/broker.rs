//! A source that cannot be read again, as MQTT is: the broker sends anew what was not acknowledged, and after a
//! reconnect the rest may come in another order. In front of it stands the real journal, on a real disk.

use crate::engine::simulation::expect::{Fate, Sent};
use crate::engine::simulation::planted::{Bug, planted};
use crate::engine::simulation::world::World;
use crate::journal::entry::Entry;
use crate::journal::reader::Reader;
use crate::journal::{Journal, JournalOptions};
use crate::sources::{Source, SourceContext};
use crate::types::epoch::ChainId;
use crate::types::error::Result;
use crate::types::message::{Message, Messages};
use crate::types::position::{PartitionId, Position, Span};
use async_trait::async_trait;
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub const PARTITION: &str = "journal";

/// Messages sent and not acknowledged, at most: a broker stops sending there.
const WINDOW: usize = 4;

/// What the broker knows. Publishers' messages keep their own order and no other.
#[derive(Default)]
pub struct Broker {
    queues: [VecDeque<Published>; 3],
    /// To be sent first: sent before, and not acknowledged.
    again: VecDeque<Published>,
    in_flight: Vec<Published>,
    /// Counts connections: an acknowledgement of an earlier one means nothing.
    connection: u64,
    published: u64,
    /// Numbers that reached the journal's disk.
    durable: BTreeSet<u64>,
    /// The position the next message will get.
    pub journal_end: u64,
}

#[derive(Clone)]
struct Published {
    number: u64,
    sent: Sent,
}

impl Broker {
    pub fn publish(&mut self, world: &World) {
        let sent = loop {
            let sent = world.new_message();
            // There are no tombstones in MQTT.
            if sent.fate != Fate::Dropped {
                break sent;
            }
        };
        let publisher = world.dice.below(self.queues.len());
        self.published += 1;
        self.queues[publisher].push_back(Published { number: self.published, sent });
    }

    fn connect(&mut self) {
        self.connection += 1;
        for message in self.in_flight.drain(..).rev() {
            self.again.push_front(message);
        }
    }

    fn receive(&mut self, world: &World) -> Option<Published> {
        if self.in_flight.len() >= WINDOW {
            return None;
        }
        let message = self.again.pop_front().or_else(|| {
            let first = world.dice.below(self.queues.len());
            (0..self.queues.len()).find_map(|i| self.queues[(first + i) % 3].pop_front())
        })?;
        self.in_flight.push(message.clone());
        Some(message)
    }

    /// I1: only what is on the disk may be forgotten by the broker.
    fn acknowledge(&mut self, connection: u64, number: u64) {
        assert!(self.durable.contains(&number), "I1: message {number} is acknowledged and not durable");
        if connection == self.connection {
            self.in_flight.retain(|m| m.number != number);
        }
    }

    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.again.is_empty() && self.queues.iter().all(VecDeque::is_empty)
    }

    /// The end: every message came through.
    pub fn check_complete(&self) {
        assert_eq!(self.durable.len() as u64, self.published, "I1: acknowledged messages that are not durable");
    }
}

pub struct Journaled {
    pub world: Arc<World>,
    pub name: Arc<str>,
    pub dir: PathBuf,
    pub chain: ChainId,
}

#[async_trait]
impl Source for Journaled {
    async fn run(self: Box<Self>, mut context: SourceContext) -> Result<()> {
        let start = context.start.get(PARTITION).map(|s| s.position);
        let options = JournalOptions { segment_bytes: 600, ..JournalOptions::with_budget(1 << 30, 1 << 20) };
        let journal = Journal::open(&self.dir, &self.chain, start.unwrap_or_default(), options)?;
        let from = start.unwrap_or(journal.begin());
        let end = journal.durable().borrow().to;
        assert_eq!(end.0, self.broker(|b| b.journal_end), "I1: the journal ends where it was durable");
        let hold = journal.hold(from);
        let mut reader = journal.reader(from);
        let partition = PartitionId::new(&self.name, PARTITION);
        self.broker(Broker::connect);
        while !context.stop.is_cancelled() {
            if context.applied.has_changed().unwrap_or(false)
                && let Some(applied) = context.applied.borrow_and_update().get(&partition)
            {
                hold.release(*applied)?;
            }
            if self.world.happens(20) {
                self.world.say(format_args!("the broker's connection breaks"));
                self.broker(Broker::connect);
            }
            let received = self.receive(&journal, &partition).await?;
            let Some(messages) = self.read(&mut reader, &partition)? else {
                if !received {
                    let wait = Duration::from_millis(self.world.dice.between(1, 20));
                    tokio::select! {
                        biased;
                        () = context.stop.cancelled() => break,
                        () = context.clock.sleep(wait) => {}
                    }
                }
                continue;
            };
            tokio::select! {
                biased;
                () = context.stop.cancelled() => break,
                taken = context.intake.send(messages) => if !taken { break },
            }
        }
        Ok(())
    }
}

impl Journaled {
    fn broker<T>(&self, ask: impl FnOnce(&mut Broker) -> T) -> T {
        ask(&mut self.world.broker.lock().expect("no holder panics"))
    }

    /// A few messages into the journal, and their acknowledgements once it has synced them.
    async fn receive(&self, journal: &Journal, partition: &PartitionId) -> Result<bool> {
        let connection = self.broker(|b| b.connection);
        let mut group = Vec::new();
        for _ in 0..self.world.dice.below(4) {
            let Some(message) = self.broker(|b| b.receive(&self.world)) else { break };
            group.push(message);
        }
        if group.is_empty() {
            return Ok(false);
        }
        self.world.pause().await;
        if planted(Bug::AckBeforeSync) {
            for message in &group {
                self.broker(|b| b.in_flight.retain(|m| m.number != message.number));
            }
            self.world.pause().await;
        }
        // The writer has a thread of its own. Waiting for it here makes append and sync one step, the same in every run.
        let (synced, told) = std::sync::mpsc::channel();
        for Published { number, sent } in &group {
            let sent = Sent { received_at_us: self.world.time.now_us(), ..sent.clone() };
            let entry = Entry {
                received_at_us: sent.received_at_us,
                topic: "t".into(),
                flags: 1,
                headers: None,
                payload: sent.payload.clone().expect("no tombstones"),
            };
            let (synced, number) = (synced.clone(), *number);
            let on_durable = Box::new(move || synced.send(number).expect("the source waits"));
            let position = journal.appender().try_append(entry, Some(on_durable)).expect("the queue has room");
            self.world.expected.lock().expect("no holder panics").add(partition, PARTITION, position.0, sent);
            self.world.say(format_args!("journal {position} = message {number}"));
        }
        drop(synced);
        for message in &group {
            assert_eq!(told.recv(), Ok(message.number), "I1: acknowledgements come in the order of arrival");
            self.broker(|b| {
                b.durable.insert(message.number);
                b.journal_end += 1;
            });
        }
        if self.world.happens(30) {
            self.world.say(format_args!("the broker's connection breaks before the acknowledgement"));
            self.broker(Broker::connect);
        }
        for message in &group {
            self.world.pause().await;
            self.broker(|b| b.acknowledge(connection, message.number));
        }
        Ok(true)
    }

    fn read(&self, reader: &mut Reader, partition: &PartitionId) -> Result<Option<Messages>> {
        let entries = reader.read(1 << 16, 1 + self.world.dice.below(6))?;
        let to = reader.position();
        let from = Position(to.0 - entries.len() as u64);
        let items = entries.into_iter().zip(from.0..).map(|(entry, at)| entry.into_message(Position(at)));
        let items: Vec<Message> = items.collect();
        Ok((!items.is_empty()).then(|| Messages {
            partition: Arc::new(partition.clone()),
            partition_label: PARTITION.into(),
            span: Span::new(from, to),
            items,
            identity: None,
        }))
    }
}

/// A crash in the middle of a write: the journal's last file ends in bytes that were never a whole group.
pub fn tear(world: &World, dir: &std::path::Path) {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|f| f.path());
    let last = files.filter(|p| p.extension().is_some_and(|e| e == "segment")).max();
    if let Some(path) = last {
        let torn = world.dice.between(1, 20) as usize;
        world.say(format_args!("the journal ends in {torn} torn bytes"));
        let mut bytes = std::fs::read(&path).expect("a segment can be read");
        bytes.extend(std::iter::repeat_n(0xA5, torn));
        std::fs::write(&path, bytes).expect("a segment can be written");
    }
}
