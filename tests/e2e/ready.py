#!/usr/bin/env python3
"""How long a start takes: from the process to /readyz, with N keys of state and M bytes of journal, after SIGKILL.

    python3 tests/e2e/ready.py [--pipe PATH] [--keys N] [--journal MIB] [--starts N] [--keep]

First `pipe serve` reads a file with one message for each of N keys into a DISTINCT ON view and stops in order: its state is in
the checkpoint. Then it takes messages through Mosquitto until its journal has M MiB, with checkpoints a day apart, and is
killed: nothing of them is applied. Then it is started again and again, timed until /readyz says 200 and until everything in the
journal has been read, and killed each time; prints every start, and the median. A start must read all of state and of the
journal each time, or a row count is wrong and the script exits 1.
"""

import packages

packages.enter()

import argparse
import json
import statistics
import time
import urllib.request

import paho.mqtt.client as mqtt

import pipeline
from service import Local, Mosquitto, Pipe, free_port, get, run_in_workplace

SQL = """
CREATE TABLE keys (id TEXT NOT NULL, n BIGINT, note TEXT);
CREATE TABLE live (id TEXT NOT NULL, n BIGINT, note TEXT);
CREATE MATERIALIZED VIEW latest AS SELECT DISTINCT ON (id) id, n, note FROM keys ORDER BY id, n DESC;
CREATE MATERIALIZED VIEW counts AS SELECT note, count(*) AS n FROM live GROUP BY note;
INSERT INTO lake.live SELECT * FROM live;
"""
NOTE = "x" * 900


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipe", help="the binary; default: pipe of the cargo target directory")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--journal", type=int, default=100, help="MiB")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    return parser.parse_args()


def write_pipeline(directory, broker, http, interval):
    toml = pipeline.head("ready", Local(directory), http, 0, interval, 8_192) + f"""[source.keys]
type = "file"
path = "keys.jsonl"

[source.live]
type = "mqtt"
url = "mqtt://127.0.0.1:{broker}"
topics = ["live"]
client_id = "pipe-ready"
"""
    return pipeline.put(directory, "ready", SQL, toml)


def publish(port, count):
    """With QoS 1; returns when the broker has them all."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="ready-publisher")
    client.max_inflight_messages_set(1_000)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for n in range(count):
        last = client.publish("live", json.dumps({"id": f"v{n % 1000}", "n": n, "note": NOTE}), qos=1)
        if n % 1_000 == 999:
            last.wait_for_publish(60)
    last.wait_for_publish(60)
    client.disconnect()
    client.loop_stop()


def ask(http, sql):
    request = urllib.request.Request(f"http://127.0.0.1:{http}/api/v1/sql", sql, {"Accept": "application/x-ndjson"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        lines = answer.read().splitlines()
        return list(json.loads(lines[0]).values())[0] if lines else 0


def until(what, holds, pipe, patience_seconds=300):
    end = time.monotonic() + patience_seconds
    while time.monotonic() < end:
        pipe.must_run()
        try:
            if holds():
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise SystemExit(f"not within {patience_seconds} s: {what}\n{pipe.tail()}")


def size_mib(directory):
    return sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()) / 2**20


def ready(args, directory):
    broker, http = Mosquitto(directory / "mosquitto", free_port()), free_port()
    config = write_pipeline(directory, broker.port, http, "1s")
    pipe = Pipe(args.pipe, config, http, directory / "pipe.log", {})
    keys = lambda: ask(http, b"SELECT count(*) AS n FROM hot.latest")
    read_back = lambda: ask(http, b"SELECT n FROM hot.counts")
    try:
        broker.start()
        with open(directory / "keys.jsonl", "w") as file:
            for n in range(args.keys):
                file.write(f'{{"id":"key-{n:09}","n":{n},"note":"{n * 7919:032}"}}\n')
        pipe.start()
        pipe.wait_ready()
        until("all keys are there", lambda: keys() == args.keys, pipe, 600)
        if pipe.stop() != 0:
            raise SystemExit(f"pipe did not stop in order\n{pipe.tail()}")
        write_pipeline(directory, broker.port, http, "1d")
        pipe.start()
        pipe.wait_ready()
        count = args.journal * 1_000
        publish(broker.port, count)
        until("all messages are there", lambda: read_back() == count, pipe)
        pipe.kill()
        state, journal = size_mib(directory / "data/checkpoint"), size_mib(directory / "data/journal")
        print(f"{args.keys} keys in {state:.0f} MiB of checkpoint, {count} messages in {journal:.0f} MiB of journal", flush=True)
        taken = []
        for number in range(args.starts):
            begun = time.monotonic()
            pipe.start()
            until("/readyz", lambda: get(f"http://127.0.0.1:{http}/readyz") is not None, pipe)
            up = time.monotonic() - begun
            until("the journal is read", lambda: read_back() == count, pipe)
            taken.append((up, time.monotonic() - begun))
            if keys() != args.keys:
                raise SystemExit(f"{keys()} keys instead of {args.keys}")
            print(f"start {number}: ready after {taken[-1][0]:.2f} s, journal read after {taken[-1][1]:.2f} s", flush=True)
            pipe.kill()
        up, read = (statistics.median(column) for column in zip(*taken))
        print(f"median of {args.starts}: ready after {up:.2f} s, journal read after {read:.2f} s")
        return True
    finally:
        for service in (pipe, broker):
            if service.process is not None:
                service.end()


if __name__ == "__main__":
    run_in_workplace("ready", arguments(), ready)
