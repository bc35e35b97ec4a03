"""Sends the fleet's messages to Kafka and MQTT at a steady rate, each on a thread of its own."""

import random
import threading
import time

import confluent_kafka
import paho.mqtt.client as mqtt
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

IN_FLIGHT_MAX = 200
TRANSACTION_MESSAGES = 200


class Paced(threading.Thread):
    """`sent` counts; `join` raises what went wrong."""

    def __init__(self, messages, seconds):
        super().__init__(daemon=True)
        self.messages, self.seconds = messages, seconds
        self.sent = 0
        self.error = None

    def run(self):
        try:
            self.send_all()
        except BaseException as e:
            self.error = e

    def join(self):
        super().join()
        if self.error is not None:
            raise self.error

    def paced(self):
        """(number, message), not faster than all of them in `seconds`."""
        begun = time.monotonic()
        for number, message in enumerate(self.messages):
            ahead = begun + self.seconds * number / len(self.messages) - time.monotonic()
            if ahead > 0.005:
                time.sleep(ahead)
            yield number, message


def create_topic(bootstrap, topic):
    new = NewTopic(topic, num_partitions=4, replication_factor=1)
    admin = AdminClient({"bootstrap.servers": bootstrap})  # must live until the answer is there
    for future in admin.create_topics([new]).values():
        future.result()


def delete_topic(bootstrap, topic):
    """Returns when the brokers do not know it any more, so that its name is free."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_topics([topic]).values():
        future.result()
    end = time.monotonic() + 60
    while topic in admin.list_topics(timeout=10).topics:
        if time.monotonic() > end:
            raise RuntimeError(f"the topic {topic} is still there, a minute after it was deleted")
        time.sleep(0.1)


def purge(bootstrap, topic):
    """Deletes all messages there are, as a short retention does."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions
    everything = [confluent_kafka.TopicPartition(topic, p, confluent_kafka.OFFSET_END) for p in partitions]
    for future in admin.delete_records(everything).values():
        future.result()


class KafkaSender(Paced):
    """Keyed by vehicle; idempotent, so that the topic has every message once."""

    def __init__(self, bootstrap, topic, messages, seconds):
        super().__init__(messages, seconds)
        self.settings = {"bootstrap.servers": bootstrap, "topic.metadata.refresh.interval.ms": 500, "log_level": 0}
        self.topic = topic

    def send_all(self):
        producer = self.idempotent()
        for _, (vehicle, payload) in self.paced():
            self.produce(producer, vehicle, payload)
            self.sent += 1
        producer.flush()

    def idempotent(self):
        return confluent_kafka.Producer(self.settings | {"enable.idempotence": True, "linger.ms": 20})

    def produce(self, producer, vehicle, payload):
        while True:
            try:
                producer.produce(self.topic, key=vehicle, value=payload, on_delivery=raise_if_lost)
                producer.poll(0)
                return
            except BufferError:
                producer.poll(0.1)

    def transactional(self, name):
        producer = confluent_kafka.Producer(self.settings | {"transactional.id": f"e2e-{name}", "linger.ms": 20})
        producer.init_transactions(30)
        return producer


class KafkaTransactions(KafkaSender):
    """The same in transactions, each after one with the same messages that is aborted and that nobody may see."""

    def send_all(self):
        producer = self.transactional("rounds")
        for number, (vehicle, payload) in self.paced():
            if number % TRANSACTION_MESSAGES == 0:
                if number > 0:
                    producer.commit_transaction()
                producer.begin_transaction()
                for ghost_vehicle, ghost in self.messages[number : number + TRANSACTION_MESSAGES // 4]:
                    self.produce(producer, ghost_vehicle, ghost)
                producer.flush()
                producer.abort_transaction()
                producer.begin_transaction()
            self.produce(producer, vehicle, payload)
            self.sent += 1
        producer.commit_transaction()


class KafkaPublisher(KafkaSender):
    """On the way: an aborted transaction, new partitions, and at the end a committed transaction, whose marker is the last
    thing there."""

    def __init__(self, bootstrap, topic, messages, seconds):
        super().__init__(bootstrap, topic, messages, seconds)
        create_topic(bootstrap, topic)

    def send_all(self):
        last = len(self.messages) - len(self.messages) // 100
        producer = self.idempotent()
        for number, (vehicle, payload) in self.paced():
            if number == len(self.messages) * 2 // 5:
                self.abort_some()
            if number == len(self.messages) * 3 // 5:
                self.add_partitions()
            if number == last:
                producer.flush()
                producer = self.transactional("last")
                producer.begin_transaction()
            self.produce(producer, vehicle, payload)
            self.sent += 1
        producer.commit_transaction()
        # A tombstone without key: received and dropped, in no table.
        plain = confluent_kafka.Producer(self.settings)
        plain.produce(self.topic, value=None)
        plain.flush()

    def abort_some(self):
        producer = self.transactional("aborted")
        producer.begin_transaction()
        for vehicle, payload in self.messages[:500]:
            self.produce(producer, vehicle, payload)
        producer.flush()
        producer.abort_transaction()

    def add_partitions(self):
        admin = AdminClient(self.settings)
        for future in admin.create_partitions([NewPartitions(self.topic, 6)]).values():
            future.result()


def raise_if_lost(error, _message):
    if error is not None and error.code() not in (confluent_kafka.KafkaError._PURGE_QUEUE, confluent_kafka.KafkaError._PURGE_INFLIGHT):
        raise RuntimeError(f"Kafka did not take a message: {error}")


class MqttPublisher(Paced):
    """QoS 1, one topic per vehicle."""

    def __init__(self, port, messages, seconds):
        super().__init__(messages, seconds)
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"e2e-{random.random()}")
        self.client.max_inflight_messages_set(IN_FLIGHT_MAX)
        self.client.connect("127.0.0.1", port)

    def send_all(self):
        self.client.loop_start()
        waiting = []
        for _, (vehicle, payload) in self.paced():
            waiting.append(self.client.publish(f"fleet/{vehicle}/status", payload, qos=1))
            self.sent += 1
            if len(waiting) > IN_FLIGHT_MAX:
                waiting.pop(0).wait_for_publish(60)
        for message in waiting:
            message.wait_for_publish(60)
            if not message.is_published():
                raise RuntimeError("Mosquitto did not take a message")
        self.client.disconnect()
        self.client.loop_stop()
