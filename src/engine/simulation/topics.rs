//! A source that can be read again, as Kafka is: partitions with gaps, new ones while it runs, spans of nothing but gaps.

use crate::engine::simulation::world::{Topic, World};
use crate::sources::{Source, SourceContext};
use crate::types::error::Result;
use crate::types::message::{Message, Messages};
use crate::types::position::{PartitionId, Position, Span};
use async_trait::async_trait;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub struct Topics {
    pub world: Arc<World>,
    pub name: Arc<str>,
}

#[async_trait]
impl Source for Topics {
    async fn run(self: Box<Self>, context: SourceContext) -> Result<()> {
        let mut at: BTreeMap<PartitionId, u64> = BTreeMap::new();
        for (name, start) in context.start.iter() {
            let identity = start.identity.as_deref();
            assert_eq!(identity, Some(&json!({ "topic": name })), "the identity of a partition comes back");
            at.insert(PartitionId::new(&self.name, name), start.position.0);
        }
        while !context.stop.is_cancelled() {
            let Some(messages) = self.fetch(&at) else {
                let wait = Duration::from_millis(self.world.dice.between(1, 20));
                tokio::select! {
                    biased;
                    () = context.stop.cancelled() => break,
                    () = context.clock.sleep(wait) => continue,
                }
            };
            let (partition, to) = (messages.partition.clone(), messages.span.to.0);
            tokio::select! {
                biased;
                () = context.stop.cancelled() => break,
                taken = context.intake.send(messages) => if !taken { break },
            }
            at.insert((*partition).clone(), to);
            self.world.pause().await;
        }
        Ok(())
    }
}

impl Topics {
    /// A few messages of some partition that has any, or a gap.
    fn fetch(&self, at: &BTreeMap<PartitionId, u64>) -> Option<Messages> {
        let topics = self.world.topics.lock().expect("no holder panics");
        let waiting: Vec<(&PartitionId, &Topic, u64)> = topics
            .iter()
            .filter(|(id, _)| id.source == self.name)
            .map(|(id, topic)| (id, topic, at.get(id).copied().unwrap_or(topic.begin)))
            .filter(|(id, topic, from)| *from < topic.end || !at.contains_key(*id))
            .collect();
        let (id, topic, from) = *waiting.get(self.world.dice.below(waiting.len()))?;
        let mut sent = self.world.expected.lock().expect("no holder panics").between(id, from, topic.end);
        let take = self.world.dice.below(7).min(sent.len());
        let rest = sent.split_off(take);
        // Up to the next message, or short of it.
        let next = rest.first().map_or(topic.end, |(position, _)| *position);
        let last = sent.last().map_or(from, |(position, _)| position + 1);
        let to = self.world.dice.between(last, next);
        let items = sent.into_iter().map(|(position, sent)| Message {
            position: Position(position),
            topic: Some("t".into()),
            key: None,
            payload: sent.payload,
            headers: None,
            timestamp_us: None,
            received_at_us: sent.received_at_us,
            replayed: None,
        });
        Some(Messages {
            partition: Arc::new(id.clone()),
            partition_label: topic.label.as_str().into(),
            span: Span::new(Position(from), Position(to)),
            items: items.collect(),
            identity: Some(Arc::new(json!({ "topic": id.name }))),
        })
    }
}
