//! Reads one topic on a thread of its own: finds partitions, begins them, polls, hands over.
//!
//! Back-pressure is `Intake::send` holding this thread: the library's queue fills to its bound and it stops fetching. We
//! are in no group, so a thread that does not poll loses nothing. What a retry can mend is retried here (the library
//! reconnects by itself; we look until the topic answers again); what only a human can mend is returned.

use crate::sources::SourceContext;
use crate::sources::kafka::begin::{self, Available, Origin};
use crate::sources::kafka::config::StartAt;
use crate::sources::kafka::health::{Events, Health};
use crate::sources::kafka::pending::Pending;
use crate::sources::kafka::topic_id::topic_id;
use crate::types::error::{Error, Result};
use crate::types::limit::HANDOVER_MESSAGES_MAX;
use crate::types::message::Messages;
use crate::types::position::{PartitionId, Position, Span};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// How long one question to the brokers may take; also how long a stop may have to wait.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Between looks while something is wrong. The library paces its own connection attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long a poll waits when nothing comes: bounds the delay of a stop and of group commits.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How often an idle partition's position is moved over transaction markers at its end.
const MARKER_INTERVAL: Duration = Duration::from_secs(1);
/// Under `once`: nobody watches a run that is to end by itself, so a broker that stays away, or a wrong password, must end
/// it. About as long as the object stores' clients try.
pub const TROUBLE_PATIENCE: Duration = Duration::from_secs(60);
/// Under `once`: a topic that was just created needs a moment to show on all brokers.
const MISSING_TOPIC_PATIENCE: Duration = Duration::from_secs(10);

pub struct Parts {
    pub source: Arc<str>,
    pub topic: Arc<str>,
    pub consumer: Arc<BaseConsumer<Events>>,
    pub start_at: StartAt,
    /// At the start only: what is purged while we read is refused all the same.
    pub skip_purged: bool,
    /// Positions that were applied are committed to the group.
    pub commits: bool,
    pub look_interval: Duration,
    /// Under `once`: how long trouble may last.
    pub once_patience: Duration,
    pub context: SourceContext,
    pub stop: CancellationToken,
    pub runtime: Handle,
    pub health: Arc<Health>,
}

pub struct TopicReader {
    parts: Parts,
    partitions: BTreeMap<i32, Partition>,
    /// Kept in the record with each position; none before the first answer.
    origin: Option<Origin>,
    /// The same as the record has it.
    identity: Option<Arc<serde_json::Value>>,
    next_look: Instant,
    next_marker_check: Instant,
    started: Instant,
    /// The first look of those that met trouble, one after the other.
    trouble_since: Option<Instant>,
}

struct Partition {
    id: Arc<PartitionId>,
    label: Arc<str>,
    /// Everything before is handed over.
    handed_to: u64,
    /// Everything before is handed over or pending.
    position: u64,
    pending: Pending,
    /// The record knows it, or will: a partition is handed over empty once, so that "latest" is decided only once.
    announced: bool,
    /// Under `once`: the end there was at the start.
    end: Option<u64>,
    done: bool,
}

enum Looked {
    Fine,
    /// Retried; for people.
    Trouble(String),
    NoSuchTopic,
}

/// False: told to stop, or the engine is gone. What was not handed over will be read again.
type GoOn = bool;

impl TopicReader {
    pub fn new(mut parts: Parts) -> Self {
        let now = Instant::now();
        // Also what the process before recorded: it may have been killed before it told the group.
        parts.context.applied.mark_changed();
        TopicReader {
            parts,
            partitions: BTreeMap::new(),
            origin: None,
            identity: None,
            next_look: now,
            next_marker_check: now,
            started: now,
            trouble_since: None,
        }
    }

    pub fn run(mut self) -> Result<()> {
        while !self.parts.stop.is_cancelled() {
            if Instant::now() >= self.next_look {
                self.look()?;
            }
            self.commit_applied();
            if !self.take()? || (self.parts.context.once && self.is_done()) {
                break;
            }
        }
        Ok(())
    }

    /// Under `once`: every partition there was has been read to the end it had.
    fn is_done(&self) -> bool {
        !self.partitions.is_empty() && self.partitions.values().all(|p| p.done)
    }

    /// Is the topic there, and are there partitions we do not read yet?
    fn look(&mut self) -> Result<()> {
        let looked = self.find_partitions()?;
        let topic = &self.parts.topic;
        let trouble = match looked {
            Looked::Fine => {
                self.parts.health.up(topic);
                self.parts.consumer.context().forget_failure();
                self.trouble_since = None;
                self.next_look = Instant::now() + self.parts.look_interval;
                return Ok(());
            }
            Looked::Trouble(why) => {
                let since = *self.trouble_since.get_or_insert_with(Instant::now);
                if self.parts.context.once && since.elapsed() > self.parts.once_patience {
                    return Err(Error::Failed(format!("topic \"{topic}\" cannot be read: {why}")));
                }
                why
            }
            Looked::NoSuchTopic if self.parts.context.once && self.started.elapsed() > MISSING_TOPIC_PATIENCE => {
                return Err(Error::refused(
                    format!("topic \"{topic}\" does not exist"),
                    "Create it, or correct \"topics\". Without --once we wait for it.",
                ));
            }
            Looked::NoSuchTopic if self.topic_is_known() => "the topic does not exist any more".into(),
            Looked::NoSuchTopic => "the topic does not exist yet".into(),
        };
        self.parts.health.down(topic, &trouble);
        self.next_look = Instant::now() + RETRY_INTERVAL;
        Ok(())
    }

    fn find_partitions(&mut self) -> Result<Looked> {
        let consumer = self.parts.consumer.clone();
        let metadata = match consumer.fetch_metadata(Some(&self.parts.topic), REQUEST_TIMEOUT) {
            Ok(metadata) => metadata,
            Err(e) => return Ok(Looked::Trouble(self.parts.consumer.context().why(&e))),
        };
        let Some(found) = metadata.topics().iter().find(|t| t.name() == &*self.parts.topic) else {
            return Ok(Looked::NoSuchTopic);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Ok(Looked::NoSuchTopic);
            }
            Some(code) => return Ok(Looked::Trouble(code.to_string())),
        }
        // Who has just answered, if it goes by its number yet.
        let answering = Some(metadata.orig_broker_id()).filter(|id| *id >= 0);
        let Some(broker) = answering.or(metadata.brokers().first().map(|b| b.id())) else {
            return Ok(Looked::Trouble("the brokers do not name themselves".into()));
        };
        if let Err(trouble) = self.find_origin(broker)? {
            return Ok(Looked::Trouble(trouble));
        }
        // Under `once` the partitions are those there were at the start.
        let complete = self.parts.context.once && !self.partitions.is_empty();
        let ids = found.partitions().iter().map(|p| p.id());
        let new: Vec<i32> = ids.filter(|id| !complete && !self.partitions.contains_key(id)).collect();
        let mut begun = Vec::new();
        for id in new {
            match self.begin(id)? {
                Ok(partition) => begun.push((id, partition)),
                // All or none: under `once` and "latest", a partition must not be begun later than its neighbours.
                Err(trouble) => return Ok(Looked::Trouble(trouble)),
            }
        }
        if !begun.is_empty() {
            begun.iter().for_each(|(_, partition)| self.tell_of_skipped(partition));
            self.partitions.extend(begun);
            self.assign()?;
        }
        match found.partitions().iter().find(|p| p.leader() < 0) {
            Some(p) => Ok(Looked::Trouble(format!("partition {} has no leader", p.id()))),
            None => Ok(Looked::Fine),
        }
    }

    /// Which cluster and which topic this is, and whether it is still the same. The inner error is trouble that a retry may
    /// mend.
    fn find_origin(&mut self, broker: i32) -> Result<Result<(), String>> {
        let (consumer, topic) = (self.parts.consumer.clone(), &self.parts.topic);
        let id = match topic_id(consumer.client(), broker, topic, REQUEST_TIMEOUT) {
            Ok(id) => id,
            Err(e) => return Ok(Err(consumer.context().why(&e))),
        };
        if let Some(origin) = &self.origin {
            // Made anew while we read: refused at this look, as it is at a start.
            let found = Origin { topic: id, ..origin.clone() };
            return begin::check_origin(&format!("{topic}/0"), origin, &found).map(Ok);
        }
        // Answered from the metadata we just asked for.
        let Some(cluster) = consumer.client().fetch_cluster_id(REQUEST_TIMEOUT) else {
            return Ok(Err("the brokers do not tell the cluster's id".into()));
        };
        let origin = Origin { cluster: Some(cluster), topic: id };
        self.identity = Some(Arc::new(serde_json::to_value(&origin).expect("plain data is always JSON")));
        self.origin = Some(origin);
        Ok(Ok(()))
    }

    /// The inner error is trouble that a retry may mend.
    fn begin(&mut self, id: i32) -> Result<Result<Partition, String>> {
        let name: Arc<str> = format!("{}/{id}", self.parts.topic).into();
        let start = self.parts.context.start.get(&name);
        let Some(origin) = &self.origin else { return Ok(Err("the brokers do not tell who they are".into())) };
        if let Some(identity) = start.and_then(|s| s.identity.as_ref()) {
            let recorded = Origin::deserialize(identity.as_ref()).map_err(|e| {
                Error::Failed(format!("the record's identity of partition \"{name}\" cannot be read: {e}"))
            })?;
            begin::check_origin(&name, &recorded, origin)?;
        }
        let has = match self.available(id) {
            Ok(has) => has,
            Err(e) => return Ok(Err(self.parts.consumer.context().why(&e))),
        };
        let recorded = start.map(|s| s.position.0);
        let wanted = if self.parts.skip_purged { recorded.map(|at| at.max(has.first)) } else { recorded };
        let position = begin::begin(&name, wanted, self.topic_is_known(), self.parts.start_at, has)?;
        tracing::info!(source = %self.parts.source, partition = %name, position, first = has.first, end = has.end, "partition begun");
        let end = self.parts.context.once.then_some(has.end);
        Ok(Ok(Partition {
            id: Arc::new(PartitionId { source: self.parts.source.clone(), name }),
            label: id.to_string().into(),
            // Before the position only where messages are skipped: the next span covers them.
            handed_to: recorded.unwrap_or(position),
            position,
            pending: Pending::default(),
            announced: wanted.is_some(),
            end,
            done: end.is_some_and(|end| position >= end),
        }))
    }

    fn tell_of_skipped(&self, begun: &Partition) {
        let (source, from, to) = (&self.parts.source, begun.handed_to, begun.position);
        if from < to {
            let partition = &begun.id.name;
            tracing::error!(%source, %partition, from, to, "skipped messages that were purged before they were read: they are lost");
            metrics::counter!("pipe_kafka_skipped_positions_total", "component" => source.to_string())
                .increment(to - from);
        }
    }

    /// Under read_committed the end is the last stable offset.
    fn available(&self, id: i32) -> Result<Available, KafkaError> {
        let (first, end) = self.parts.consumer.fetch_watermarks(&self.parts.topic, id, REQUEST_TIMEOUT)?;
        Ok(Available { first: first.max(0) as u64, end: end.max(0) as u64 })
    }

    /// This process or the record has read this topic: a partition not seen before is a new one.
    fn topic_is_known(&self) -> bool {
        let of_topic = |name: &str| name.rsplit_once('/').is_some_and(|(topic, _)| topic == &*self.parts.topic);
        !self.partitions.is_empty() || self.parts.context.start.keys().any(|name| of_topic(name))
    }

    /// Tells the library what to read, from where: everything anew, so that there is one way to do it.
    fn assign(&self) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for (id, partition) in self.partitions.iter().filter(|(_, p)| !p.done) {
            list.add_partition_offset(&self.parts.topic, *id, Offset::Offset(partition.position as i64))
                .map_err(|e| Error::Failed(format!("cannot assign partition \"{}\": {e}", partition.id.name)))?;
        }
        self.parts.consumer.assign(&list).map_err(|e| Error::Failed(format!("cannot assign partitions: {e}")))
    }

    /// One round: what has arrived, up to a bound, then everything is handed over.
    fn take(&mut self) -> Result<GoOn> {
        let consumer = self.parts.consumer.clone();
        let mut wait = POLL_WAIT;
        let mut idle = true;
        for _ in 0..HANDOVER_MESSAGES_MAX {
            let polled = consumer.poll(wait);
            // Whatever came, only what is there already is taken with it: errors that keep coming must not hold back a
            // stop or the next look.
            wait = Duration::ZERO;
            match polled {
                None => break,
                Some(Ok(message)) => {
                    if !self.accept(&message) {
                        return Ok(false);
                    }
                    idle = false;
                }
                Some(Err(KafkaError::PartitionEOF(id))) if self.parts.context.once => {
                    self.pass_markers();
                    // The position is not moved to `end`: just after a change of leaders, the end that the event means
                    // may lie before it. What is there then is read next time.
                    if let Some(partition) = self.partitions.get_mut(&id) {
                        partition.done = true;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(e)) => self.judge(e)?,
            }
        }
        if idle && Instant::now() >= self.next_marker_check {
            self.next_marker_check = Instant::now() + MARKER_INTERVAL;
            self.pass_markers();
        }
        Ok(self.hand_over_all())
    }

    fn accept(&mut self, message: &BorrowedMessage<'_>) -> GoOn {
        let offset = message.offset() as u64;
        let Some(partition) = self.partitions.get_mut(&message.partition()) else { return true };
        // Below the position: handed over before partitions were assigned anew.
        if partition.done || offset < partition.position {
            return true;
        }
        if let Some(end) = partition.end
            && offset >= end
        {
            // Everything before the end has come; offsets in between hold no messages of ours.
            (partition.position, partition.done) = (end, true);
            return true;
        }
        if partition.pending.is_full_for(message) && !self.hand_over(message.partition()) {
            return false;
        }
        let partition = self.partitions.get_mut(&message.partition()).expect("found above");
        let bytes = partition.pending.push(Position(offset), message);
        partition.position = offset + 1;
        self.parts.context.status.messages_in.fetch_add(1, Ordering::Relaxed);
        self.parts.context.status.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
        true
    }

    /// An error that `poll` brought. Unknown ones end the source: data behind them might be skipped if we went on, and
    /// the record makes a restart safe.
    fn judge(&mut self, error: KafkaError) -> Result<()> {
        use RDKafkaErrorCode as Code;
        let failed = Err(Error::Failed(format!("topic \"{}\": {error}", self.parts.topic)));
        if let KafkaError::MessageConsumptionFatal(_) = error {
            return failed;
        }
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => self.check_positions(),
            Some(Code::AllBrokersDown) => {
                let why = self.parts.consumer.context().why(&error);
                self.parts.health.down(&self.parts.topic, &why);
                self.look_soon();
                Ok(())
            }
            // Whether the topic still answers, the next look tells; one of several brokers may be down without harm.
            Some(
                Code::BrokerTransportFailure
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::TimedOutQueue
                | Code::MessageTimedOut
                | Code::Authentication
                | Code::SSL
                | Code::SaslAuthenticationFailed
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::ReplicaNotAvailable
                | Code::BrokerNotAvailable
                | Code::RequestTimedOut
                | Code::NetworkException
                | Code::KafkaStorageError
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch
                | Code::Retry
                | Code::DestroyBroker,
            ) => {
                self.look_soon();
                Ok(())
            }
            // About the group, which only lag tools use.
            Some(
                Code::GroupAuthorizationFailed
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::NotCoordinator
                | Code::PollExceeded,
            ) => Ok(()),
            _ => failed,
        }
    }

    fn look_soon(&mut self) {
        self.next_look = self.next_look.min(Instant::now() + RETRY_INTERVAL);
    }

    /// The broker does not have what we want to read. If that is so, a human must choose; if a leader that lagged behind
    /// said it, we ask again.
    fn check_positions(&mut self) -> Result<()> {
        for (id, partition) in self.partitions.iter().filter(|(_, p)| !p.done) {
            let has = match self.available(*id) {
                Ok(has) => has,
                Err(why) => {
                    let why = format!("a position is out of range, and the broker does not say what there is: {why}");
                    self.parts.health.down(&self.parts.topic, &why);
                    self.look_soon();
                    return Ok(());
                }
            };
            begin::begin(&partition.id.name, Some(partition.position), true, self.parts.start_at, has)?;
        }
        self.look_soon();
        self.assign()
    }

    /// Transaction markers at the end of a partition are no messages; only the library's position moves over them.
    /// Between polls that position is exactly what we were given, so moving to it skips nothing.
    fn pass_markers(&mut self) {
        // An error means nothing is assigned yet.
        let Ok(positions) = self.parts.consumer.position() else { return };
        for element in positions.elements() {
            let Some(partition) = self.partitions.get_mut(&element.partition()) else { continue };
            if let Offset::Offset(position) = element.offset()
                && !partition.done
            {
                partition.position = partition.position.max(position.max(0) as u64);
            }
        }
    }

    fn hand_over_all(&mut self) -> GoOn {
        let ids: Vec<i32> = self.partitions.keys().copied().collect();
        ids.into_iter().all(|id| self.hand_over(id))
    }

    fn hand_over(&mut self, id: i32) -> GoOn {
        let partition = self.partitions.get_mut(&id).expect("a partition that was begun");
        if partition.handed_to == partition.position && partition.announced {
            return true;
        }
        let span = Span::new(Position(partition.handed_to), Position(partition.position));
        let items = partition.pending.take(&self.parts.topic, self.parts.context.clock.now_us());
        let (partition_id, partition_label) = (partition.id.clone(), partition.label.clone());
        let identity = self.identity.clone();
        let messages = Messages { partition: partition_id, partition_label, span, items, identity };
        partition.handed_to = partition.position;
        partition.announced = true;
        let (stop, intake) = (&self.parts.stop, &self.parts.context.intake);
        self.parts.runtime.block_on(async {
            tokio::select! {
                biased;
                () = stop.cancelled() => false,
                sent = intake.send(messages) => sent,
            }
        })
    }

    /// For lag tools only, so nothing waits for it and nothing depends on it.
    fn commit_applied(&mut self) {
        let has_changed = self.parts.context.applied.has_changed().unwrap_or(false);
        if !self.parts.commits || self.partitions.is_empty() || !has_changed {
            return;
        }
        let applied = self.parts.context.applied.borrow_and_update().clone();
        let mut list = TopicPartitionList::new();
        for (id, partition) in &self.partitions {
            if let Some(position) = applied.get(&*partition.id) {
                let offset = Offset::Offset(position.0 as i64);
                if let Err(error) = list.add_partition_offset(&self.parts.topic, *id, offset) {
                    tracing::debug!(source = %self.parts.source, %error, "group position cannot be committed");
                }
            }
        }
        if list.count() > 0
            && let Err(error) = self.parts.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(source = %self.parts.source, %error, "group positions were not committed");
        }
    }
}
