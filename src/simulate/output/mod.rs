//! Where simulated messages go. Every output knows when all it took has arrived, and says so before the account closes.

mod file;
mod kafka;
mod mqtt;

use crate::simulate::sent::Sent;
use crate::types::error::{Error, Result};
use std::path::PathBuf;
use tokio::sync::mpsc;

pub use kafka::KafkaOptions;
pub use mqtt::MqttOptions;

/// What to connect to.
pub enum OutputOptions {
    /// QoS 1; done when every message is acknowledged.
    Mqtt(MqttOptions),
    /// acks=all, keyed by vehicle; done when every message is delivered.
    Kafka(KafkaOptions),
    /// One line per message. `{stream}` in the path stands for `kinematic` or `status`.
    File(PathBuf),
    Stdout,
    /// For tests and in-process consumers: done when handed over. Waits while the channel is full.
    Channel(mpsc::Sender<Sent>),
}

pub enum Output {
    Mqtt(mqtt::MqttOutput),
    Kafka(kafka::KafkaOutput),
    File(file::FileOutput),
    Channel(mpsc::Sender<Sent>),
}

impl Output {
    pub async fn connect(options: OutputOptions) -> Result<Output> {
        Ok(match options {
            OutputOptions::Mqtt(options) => Output::Mqtt(mqtt::MqttOutput::connect(options)?),
            OutputOptions::Kafka(options) => Output::Kafka(kafka::KafkaOutput::connect(&options)?),
            OutputOptions::File(path) => Output::File(file::FileOutput::create(path)),
            OutputOptions::Stdout => Output::File(file::FileOutput::stdout()),
            OutputOptions::Channel(sender) => Output::Channel(sender),
        })
    }

    /// Takes the message; waits while the output is at its bound.
    pub async fn send(&mut self, sent: &Sent) -> Result<()> {
        match self {
            Output::Mqtt(output) => output.send(sent).await,
            Output::Kafka(output) => output.send(sent).await,
            Output::File(output) => output.send(sent),
            Output::Channel(sender) => sender
                .send(sent.clone())
                .await
                .map_err(|_| Error::Failed("the receiver of the messages is gone".into())),
        }
    }

    /// Waits until everything taken has arrived. Returns how many messages had to be published again.
    pub async fn finish(self) -> Result<u64> {
        match self {
            Output::Mqtt(output) => output.finish().await,
            Output::Kafka(output) => output.finish().await.map(|()| 0),
            Output::File(output) => output.finish().map(|()| 0),
            Output::Channel(_) => Ok(0),
        }
    }
}
