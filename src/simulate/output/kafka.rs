//! Messages to Kafka: acks=all, keyed by vehicle, so that a vehicle's messages keep their order in one partition.

use crate::simulate::sent::Sent;
use crate::types::error::{Error, Result};
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct KafkaOptions {
    pub brokers: String,
    /// librdkafka's own, over ours.
    pub properties: BTreeMap<String, String>,
    /// How long the last messages may take to be delivered.
    pub finish_timeout: Duration,
}

pub struct KafkaOutput {
    producer: ThreadedProducer<Deliveries>,
    finish_timeout: Duration,
}

/// Notes the first message that could not be delivered; a mutex, because librdkafka reports from a thread of its own.
#[derive(Default)]
struct Deliveries {
    failure: Mutex<Option<KafkaError>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        if let Err((error, _)) = result {
            self.failure.lock().expect("nothing panics while it is held").get_or_insert_with(|| error.clone());
        }
    }
}

impl KafkaOutput {
    pub fn connect(options: &KafkaOptions) -> Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &options.brokers)
            .set("acks", "all")
            // A retry must not double a message: the account is exact.
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("queue.buffering.max.kbytes", "65536");
        for (key, value) in &options.properties {
            config.set(key, value);
        }
        let producer = config.create_with_context(Deliveries::default()).map_err(failed)?;
        Ok(KafkaOutput { producer, finish_timeout: options.finish_timeout })
    }

    pub async fn send(&mut self, sent: &Sent) -> Result<()> {
        self.check()?;
        let mut record = BaseRecord::to(&sent.topic).key(sent.key.as_bytes()).payload(sent.payload.as_ref());
        record.timestamp = Some(sent.due_us / 1_000);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    self.check()?;
                }
                Err((error, _)) => return Err(failed(error)),
            }
        }
    }

    pub async fn finish(self) -> Result<()> {
        let timeout = self.finish_timeout;
        // Flushing blocks its thread.
        let flushed = tokio::task::spawn_blocking(move || {
            let flushed = self.producer.flush(timeout).map_err(failed);
            let failure = self.check();
            failure.and(flushed)
        });
        flushed.await.map_err(|e| Error::Failed(format!("kafka output: {e}")))?
    }

    fn check(&self) -> Result<()> {
        let failure = self.producer.context().failure.lock().expect("nothing panics while it is held");
        failure.clone().map_or(Ok(()), |error| Err(failed(error)))
    }
}

fn failed(error: KafkaError) -> Error {
    Error::Unavailable(format!("kafka output: {error}"))
}
