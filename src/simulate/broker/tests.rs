//! The broker under a slow subscriber, and the MQTT output over a broker that goes away: nothing of QoS 1 is lost.

use crate::simulate::broker;
use crate::simulate::options::Rate;
use crate::simulate::output::{MqttOptions, OutputOptions};
use crate::simulate::run::{Options, run};
use crate::simulate::tests::{expected, options};
use bytes::Bytes;
use rumqttc::{AsyncClient, Event, EventLoop, Packet, Publish, QoS};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn subscriber(address: SocketAddr) -> (AsyncClient, EventLoop) {
    let mut options = rumqttc::MqttOptions::new("subscriber", address.ip().to_string(), address.port());
    options.set_clean_session(false).set_manual_acks(true).set_max_packet_size(128 * 1024, 128 * 1024);
    AsyncClient::new(options, 1_000)
}

/// Waits for an event, at most as long as a machine under load may need.
async fn event(event_loop: &mut EventLoop) -> Event {
    let polled = tokio::time::timeout(Duration::from_secs(60), event_loop.poll()).await.expect("the broker answers");
    polled.expect("the connection holds")
}

async fn subscribe(client: &AsyncClient, event_loop: &mut EventLoop) {
    client.subscribe("fleet/#", QoS::AtLeastOnce).await.expect("queued");
    while !matches!(event(event_loop).await, Event::Incoming(Packet::SubAck(_))) {}
}

async fn next_publish(event_loop: &mut EventLoop) -> Publish {
    loop {
        if let Event::Incoming(Packet::Publish(publish)) = event(event_loop).await {
            return publish;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_that_reconnects_receives_everything() {
    const MESSAGES: u64 = 15_000;
    let (address, mut handle) = broker::start(0).await.expect("a broker");
    let (client, mut event_loop) = subscriber(address);
    subscribe(&client, &mut event_loop).await;
    // More than the broker's default queue holds (10,000), while nobody reads.
    let mqtt = MqttOptions { url: format!("mqtt://{address}"), connections: 2, ..Default::default() };
    let tally = run(options(MESSAGES), OutputOptions::Mqtt(mqtt), CancellationToken::new()).await.expect("ran");
    let (sent, want) = expected(MESSAGES).await;
    assert_eq!((tally.messages, tally.rows, &tally.by_kind), (want.messages, want.rows, &want.by_kind));
    // Reads some, acknowledges only half of them, and loses its connection.
    let mut received: HashMap<Bytes, u32> = HashMap::new();
    for i in 0..100 {
        let publish = next_publish(&mut event_loop).await;
        if i % 2 == 0 {
            client.ack(&publish).await.expect("queued");
            *received.entry(publish.payload).or_default() += 1;
        }
    }
    drop((client, event_loop));
    let (client, mut event_loop) = subscriber(address);
    let mut wanted: HashMap<Bytes, u32> = HashMap::new();
    for message in &sent {
        *wanted.entry(message.payload.clone()).or_default() += 1;
    }
    // Redeliveries are allowed at QoS 1, losses are not.
    let is_complete = |received: &HashMap<Bytes, u32>| {
        wanted.iter().all(|(payload, times)| received.get(payload).is_some_and(|got| got >= times))
    };
    let mut count = 0;
    while count % 64 != 0 || !is_complete(&received) {
        let publish = next_publish(&mut event_loop).await;
        client.ack(&publish).await.expect("queued");
        *received.entry(publish.payload).or_default() += 1;
        count += 1;
        if count >= sent.len() - 50 && is_complete(&received) {
            break;
        }
    }
    handle.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_back_empty_loses_nothing_on_its_way_in() {
    const MESSAGES: u64 = 4_000;
    let (address, mut handle) = broker::start(0).await.expect("a broker");
    let mqtt = MqttOptions { url: format!("mqtt://{address}"), connections: 2, window: 20, ..Default::default() };
    let stop = CancellationToken::new();
    let slow = Options { rate: Rate::PerSecond(4_000.0), ..options(MESSAGES) };
    let progress = slow.progress.clone();
    let running = tokio::spawn(run(slow, OutputOptions::Mqtt(mqtt), stop.clone()));
    while progress.messages.load(std::sync::atomic::Ordering::Relaxed) < 500 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.stop().await.expect("stopped");
    let (address, mut handle) = loop {
        // The port may stay taken for a moment.
        match broker::start(address.port()).await {
            Ok(started) => break started,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let (client, mut event_loop) = subscriber(address);
    subscribe(&client, &mut event_loop).await;
    let tally = running.await.expect("no panic").expect("ran");
    assert_eq!(tally.messages, MESSAGES);
    handle.stop().await.expect("stopped");
}
