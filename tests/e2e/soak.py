#!/usr/bin/env python3
"""Kills pipe with SIGKILL again and again while devices send, and after every kill counts everything.

    python3 tests/e2e/soak.py [--kills N] [--per-round K] [--minutes M] [--rate R] [--store local|s3] [--faults 0.05] [--seed S] [--keep]

The real binary between a real Kafka, a real Mosquitto, and local disk or an S3 server (of whose requests `--faults` lets a
share fail, and which now and then is away). A round: messages go out, with dense ids and, per device, dense sequence
numbers; pipe is killed at some moment (kills.py) and started, `--per-round` times; it gets the rest, and drains. Then, over
everything that was ever sent:

  * lake, read by deltalake for Python: count = distinct = sent for what came through Kafka, per device too; for MQTT the same
    after the broker's redeliveries are removed by message identity; dead letters with their bytes
  * chdb agrees; so does pipe's own Flight SQL
  * hot state = a computation in Python; key-value store = last by event time, and while it could be read it never went back
  * ledger: received = decoded + rejected + dropped; no invariant was broken; `pipe audit` finds nothing
  * what had to be rolled forward, seen from outside before the start, is what the start says it rolled forward

One line per round. Ends at the first round that is wrong, leaves everything there and names the place. Ctrl-C: after this
round. Needs what run.py needs.
"""

import packages

packages.enter()

import argparse
import http.client
import random
import re
import signal
import subprocess
import threading
import time
import traceback
import urllib.error

import account
import fleet
import kills
import pipeline
from kafka import Kafka
from publish import KafkaSender, KafkaTransactions, MqttPublisher, create_topic
from service import Local, Mosquitto, Pipe, S3, free_port, run_in_workplace

VEHICLES = 120
SECONDS_PER_KILL = 4.0
KILL_WINDOW_SECONDS = 3.0
SETTLE_SECONDS = 2.5  # two checkpoint intervals
ROLLED_FORWARD = re.compile(r"rolling forward.*?epoch=(\d+).*?tables=(\d+)")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipe", help="the binary; default: pipe of the cargo target directory")
    parser.add_argument("--kills", type=int, default=10, help="SIGKILLs, at least")
    parser.add_argument("--per-round", type=int, default=1, help="kills, before everything is drained and counted")
    parser.add_argument("--minutes", type=float, default=0, help="go on until they are over, however many kills it takes")
    parser.add_argument("--rate", type=int, default=500, help="messages per second through Kafka; MQTT gets a tenth")
    parser.add_argument("--store", choices=["local", "s3"], default="local", help="where lake and records lie")
    parser.add_argument("--faults", type=float, default=0.0, help="share of pipe's S3 requests that fail")
    parser.add_argument("--seed", type=int, help="of messages, moments and faults; default: a new one, which is printed")
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    args = parser.parse_args()
    if args.faults and args.store != "s3":
        parser.error("--faults needs --store s3")
    args.seed = random.SystemRandom().randrange(1_000_000) if args.seed is None else args.seed
    return args


class Soak:
    def __init__(self, args, directory):
        self.args, self.directory = args, directory
        self.begun, self.is_stopped = time.monotonic(), False
        self.random = random.Random(args.seed)
        self.fleet = fleet.Fleet(args.seed, VEHICLES, duplicate_share=0)
        self.expected = None, None
        self.check = account.Account(self.say, brief=True)
        self.killed, self.had_to_roll, self.rolled, self.rounds = 0, 0, 0, 0
        self.by_moment = dict.fromkeys(kills.MOMENTS, 0)
        self.kafka = Kafka(directory / "kafka", free_port(pair=True))
        self.mosquitto = Mosquitto(directory / "mosquitto", free_port())
        s3 = args.store == "s3"
        self.store = S3(directory / "s3", free_port(), args.faults, args.seed) if s3 else Local(directory)
        self.evidence = kills.Evidence(self.store)
        self.http, self.flight = free_port(), free_port()
        self.readers = account.Readers(self.store, self.http, self.flight)
        self.pipe, self.config = None, None
        self.has_audit = subprocess.run([args.pipe, "audit", "--help"], capture_output=True).returncode == 0

    def say(self, text):
        print(f"[{time.monotonic() - self.begun:6.1f} s] {text}", flush=True)

    def run(self):
        version = subprocess.run([self.args.pipe, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        faults = f", {self.args.faults:.0%} of the requests fail" if self.args.faults else ""
        self.say(f"{version}; store {self.args.store}{faults}; seed {self.args.seed}")
        try:
            self.set_up()
            while not self.is_over() and not self.check.failed:
                self.round()
            if not self.check.failed:
                self.a_clean_stop()
        except (Exception, SystemExit) as stop:  # whatever it is, the account is printed
            traceback.print_exc()
            self.check.failed.append(f"{type(stop).__name__}: {stop}")
        finally:
            for service in (self.pipe, self.mosquitto, self.kafka, self.store):
                if service is not None:
                    service.end()
        self.summary()
        return self.check.finish()

    def set_up(self):
        self.store.start()
        self.kafka.start()
        self.mosquitto.start()
        create_topic(self.kafka.bootstrap, pipeline.TOPIC)
        places = (self.kafka, self.mosquitto, self.store, self.http, self.flight)
        self.config = pipeline.write(self.directory, fleet.SQL, *places, interval="1s")
        self.pipe = Pipe(self.args.pipe, self.config, self.http, self.directory / "pipe.log", self.store.environment())
        self.pipe.start()
        # The session at the MQTT broker exists from here on: what is sent while pipe is dead waits there.
        self.pipe.wait_ready()
        self.say("Kafka, Mosquitto, storage and pipe are up")

    def stop(self, *_):
        self.is_stopped = True

    def is_over(self):
        return self.is_stopped or self.killed >= self.args.kills and time.monotonic() - self.begun >= self.args.minutes * 60

    def round(self):
        self.rounds += 1
        senders = self.send()
        watch = NeverBack(self.readers, self.random.sample(range(20), 3))
        watch.start()
        stories = [self.kill_and_start() for _ in range(self.args.per_round)]
        if self.args.faults and self.rounds % 3 == 2:
            self.store.go_away()
            stories.append("the store went away")
        for sender in senders:
            sender.join()
        self.readers.wait_until_drained(self.expected, self.pipe, SETTLE_SECONDS)
        passed_before = self.check.passed
        twice = self.compare()
        watch.end()
        self.check.equal("values of the key-value store that went back", [], watch.went_back)
        points, status = self.expected
        self.say(
            f"round {self.rounds}: {'; '.join(stories)}; {points['messages']} + {status['messages']} messages so far, "
            f"{points['rows']} rows, {points['dead'].total()} + {len(status['dead'])} dead letters, {twice} twice by MQTT, "
            f"kv read {watch.reads} times: {self.check.passed - passed_before} passed"
        )

    def kill_and_start(self):
        moment = self.random.choices(list(kills.MOMENTS), kills.WEIGHTS)[0]
        came = kills.wait_for(moment, self.evidence, self.random, KILL_WINDOW_SECONDS)
        story = self.kill(moment if came else "any")
        time.sleep(self.random.choice([0, 0, 1.0]))
        self.pipe.start()
        if moment == "start":
            time.sleep(self.random.uniform(0, kills.MOMENTS["start"]))
            story += ", " + self.kill("start")
            self.pipe.start()
        self.pipe.wait_ready()
        return story + self.compare_rolled_forward()

    def send(self):
        """This round's messages are on their way, and in what is expected."""
        seconds = SECONDS_PER_KILL * self.args.per_round
        count = round(self.args.rate * seconds)
        points, status = self.fleet.points(count), self.fleet.status(count // 10)
        self.expected = fleet.expected_points(points, self.expected[0]), fleet.expected_status(status, self.expected[1])
        way = KafkaTransactions if self.rounds % 3 == 0 else KafkaSender
        senders = [
            way(self.kafka.bootstrap, pipeline.TOPIC, points, seconds),
            MqttPublisher(self.mosquitto.port, status, seconds),
        ]
        for sender in senders:
            sender.start()
        return senders

    def kill(self, moment):
        self.pipe.kill()
        self.killed += 1
        self.by_moment[moment] += 1
        self.epoch, self.undone = self.evidence.undone()
        self.had_to_roll += bool(self.undone)
        undone = f", epoch {self.epoch} decided and not in {' '.join(self.undone)}" if self.undone else ""
        return f"killed at \"{moment}\" (SIGKILL {self.killed}{undone})"

    def compare_rolled_forward(self):
        """What the last start said against what was seen before it."""
        said = ROLLED_FORWARD.findall(self.pipe.said())
        wanted = [(str(self.epoch), str(len(self.undone)))] if self.undone else []
        # A put that was on its way when its process died may land later: only local disk has no such ghosts.
        if self.args.store == "local":
            self.check.equal("epoch and number of tables rolled forward, as the start says", wanted, said)
        self.rolled += len(said)
        lacking = [t["table"] for t in self.evidence.landings(self.epoch) if self.evidence.applied(t) < self.epoch]
        self.check.equal("tables that still lack what was decided, when pipe is ready", [], lacking)
        return ", rolled forward" if said else ""

    def compare(self):
        check, readers, expected = self.check, self.readers, self.expected
        account.compare_lake(check, readers, expected)
        account.compare_hot(check, readers, expected)
        account.compare_kv(check, readers, expected)
        account.compare_ledger(check, readers, expected)
        account.compare_chdb(check, readers, expected)
        account.check_invariants(check, readers)
        errors = [line for line in self.pipe.said().splitlines() if " ERROR " in line]
        check.equal("errors in the log of this start", [], errors)
        self.audit()
        status = expected[1]
        return sum(readers.count(t) - len(status[t]) for t in ("ignition", "odometer"))

    def audit(self, *options):
        if not self.has_audit:
            return
        command = [self.args.pipe, "audit", "--strict", "--config", str(self.config), *options]
        # 1: something could not be looked at, which the faulty store may well be the reason for.
        for _ in range(5 if self.args.faults else 1):
            told = subprocess.run(command, capture_output=True, text=True, env=self.pipe.environment)
            if told.returncode != 1:
                break
        self.check.holds("pipe audit", told.returncode == 0, f"exit {told.returncode}: {told.stdout}{told.stderr}")

    def a_clean_stop(self):
        account.check_kafka_group(self.check, self.kafka.bootstrap, pipeline.TOPIC)
        self.check.equal("exit code after SIGTERM", 0, self.pipe.stop())
        self.pipe.start()
        self.pipe.wait_ready()
        self.compare()
        self.check.equal("exit code after SIGTERM", 0, self.pipe.stop())
        self.audit("--kv")

    def summary(self):
        moments = ", ".join(f"{count} at \"{moment}\"" for moment, count in self.by_moment.items() if count)
        self.say(
            f"{self.killed} kills in {self.rounds} rounds ({moments}); {self.had_to_roll} left an epoch decided and not applied, "
            f"{self.rolled} starts say that they rolled forward"
        )
        if not self.has_audit:
            self.say("this build has no `pipe audit`: that check is missing")


class NeverBack(threading.Thread):
    """Reads some keys of the key-value store over and over, whenever it answers."""

    def __init__(self, readers, vehicles):
        super().__init__(daemon=True)
        self.readers, self.keys = readers, [f"v{n:04}" for n in vehicles]
        self.over = threading.Event()
        self.newest, self.went_back, self.reads = {}, [], 0

    def run(self):
        while not self.over.wait(0.05):
            for key in self.keys:
                try:
                    value = self.readers.http_json(f"/api/v1/kv/kv/vehicle_latest?key={key}")
                except urllib.error.HTTPError as e:
                    if e.code == 404 and key in self.newest:
                        self.went_back.append(f"{key}: gone, was at {self.newest[key]}")
                    continue
                except (OSError, http.client.HTTPException):
                    continue  # it has just been killed
                self.reads += 1
                at = account.to_micros(value["t"])
                if at < self.newest.get(key, at):
                    self.went_back.append(f"{key}: {at}, was at {self.newest[key]}")
                self.newest[key] = max(at, self.newest.get(key, at))

    def end(self):
        self.over.set()
        self.join()


def soak(args, directory):
    run = Soak(args, directory)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, run.stop)
    return run.run()


if __name__ == "__main__":
    run_in_workplace("soak", arguments(), soak)
