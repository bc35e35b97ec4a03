#!/usr/bin/env python3
"""End to end: real Kafka, real Mosquitto, an S3 API server, readers not written here, SIGKILL in the middle.

    python3 tests/e2e/run.py [--pipe PATH] [--messages N] [--status N] [--seconds N] [--kills N] [--store local|s3] [--keep]

A fleet's messages (fleet.py) go through Kafka and MQTT into `pipe serve`, which is killed several times on the way. Then
what is in the lake, the hot state, the key-value store and the dead letters is compared with a computation in Python over
what was sent. Kafka-fed tables must be exact; MQTT-fed ones exact after removing the broker's redeliveries by message
identity. Last, a topic is deleted
and made anew under its name, and one is purged (topics.py). Prints the account; exits 1 on any difference.

Needs: java, mvn, mosquitto, promtool (Debian: maven, default-jre-headless, mosquitto, prometheus), Go for --store s3. Python
packages are installed into ~/.cache/pipe-e2e/venv.
"""

import packages

packages.enter()

import argparse
import time

import account
import fleet
import pipeline
import topics
from kafka import Kafka
from publish import KafkaPublisher, MqttPublisher
from service import Local, Mosquitto, Pipe, S3, free_port, run_in_workplace


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipe", help="the binary; default: pipe of the cargo target directory")
    parser.add_argument("--messages", type=int, default=200_000, help="through Kafka")
    parser.add_argument("--status", type=int, default=20_000, help="through MQTT")
    parser.add_argument("--seconds", type=float, default=60, help="over which they are sent")
    parser.add_argument("--kills", type=int, default=3, help="SIGKILLs on the way")
    parser.add_argument("--store", choices=["local", "s3"], default="local", help="where lake and records lie")
    parser.add_argument("--seed", type=int, default=20_261_122)
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    return parser.parse_args()


def run(args, directory):
    started = time.monotonic()

    def say(text):
        print(f"[{time.monotonic() - started:6.1f} s] {text}", flush=True)

    kafka = Kafka(directory / "kafka", free_port(pair=True))
    mosquitto = Mosquitto(directory / "mosquitto", free_port())
    store = S3(directory / "s3", free_port()) if args.store == "s3" else Local(directory)
    http, flight = free_port(), free_port()
    pipe = None
    try:
        store.start()
        kafka.start()
        mosquitto.start()
        say(f"Kafka, Mosquitto and {args.store} storage are up")
        vehicles = fleet.Fleet(args.seed)
        points, status = vehicles.points(args.messages), vehicles.status(args.status)
        expected = (fleet.expected_points(points), fleet.expected_status(status))
        expected[0]["dropped"] = 1  # the publisher's tombstone
        say(f"{len(points)} + {len(status)} messages made, and what they must become")

        config = pipeline.write(directory, fleet.SQL, kafka, mosquitto, store, http, flight)
        to_kafka = KafkaPublisher(kafka.bootstrap, pipeline.TOPIC, points, args.seconds)
        to_mqtt = MqttPublisher(mosquitto.port, status, args.seconds)
        pipe = Pipe(args.pipe, config, http, directory / "pipe.log", store.environment())
        pipe.start()
        pipe.wait_ready()
        say("pipe is ready")

        # The session at the MQTT broker exists now: what is sent while pipe is dead waits there.
        to_kafka.start()
        to_mqtt.start()
        begun = time.monotonic()
        for kill in range(args.kills):
            time.sleep(max(0, begun + args.seconds * (kill + 1) / (args.kills + 1) - time.monotonic()))
            pipe.kill()
            say(f"SIGKILL {kill + 1}; {to_kafka.sent} + {to_mqtt.sent} messages sent so far")
            pipe.start()
        to_kafka.join()
        to_mqtt.join()
        say(f"all sent: {to_kafka.sent} + {to_mqtt.sent}")

        check = account.Account(say)
        readers = account.Readers(store, http, flight)
        readers.wait_until_drained(expected, pipe)
        say("drained")
        account.compare_lake(check, readers, expected)
        account.compare_hot(check, readers, expected)
        account.compare_kv(check, readers, expected)
        account.compare_ledger(check, readers, expected)
        account.compare_chdb(check, readers, expected)
        account.check_clients(check, readers, expected)
        account.check_kafka_group(check, kafka.bootstrap, pipeline.TOPIC)
        say("a clean stop, a start, and the same again")
        check.equal("exit code after SIGTERM", 0, pipe.stop())
        pipe.start()
        pipe.wait_ready()
        account.compare_lake(check, readers, expected)
        account.compare_hot(check, readers, expected)
        account.compare_kv(check, readers, expected)
        check.equal("exit code after SIGTERM", 0, pipe.stop())
        say("the dead letters once more: they are as malformed as before")
        dead = readers.lake("dead_letter").to_pylist()
        account.compare_replay(check, readers, expected, dead, pipe.replay())
        say("a topic that is deleted and made anew under its name, and one that is purged")
        topics.compare(check, args.pipe, kafka, directory / "topics")
        return check.finish()
    finally:
        for service in (pipe, mosquitto, kafka, store):
            if service is not None:
                service.end()


if __name__ == "__main__":
    run_in_workplace("e2e", arguments(), run)
