#!/usr/bin/env python3
"""A store that stalls under a backlog of twenty times the memory limit: memory stays bounded, every row lands once.

    python3 tests/e2e/stall.py [--pipe PATH] [--memory MIB] [--seconds N] [--backlog N] [--keep]

`pipe serve` reads a file of `backlog` x `[limits] memory` into a Delta table on an S3 server. As soon as rows land, the
server is stopped (SIGSTOP: connections hang, nothing is refused) for so many seconds, then goes on. All the while the
process's resident memory is sampled from /proc. Held: its peak is at most what the idle process has + the limit +
OVERHEAD; the process answers and says that it waits for the lake; afterwards every row is in the table exactly once
(deltalake for Python and chdb, through a checkpoint of the table's log) and the count per vehicle in hot state is right.
By hand: `--seconds 600`. Exits 1 if anything fails.
"""

import packages

packages.enter()

import argparse
import json
import os
import pathlib
import signal
import threading
import time
import urllib.request

import chdb
import pyarrow.compute as pc
from deltalake import DeltaTable

import pipeline
from account import Account
from service import Pipe, S3, free_port, get, run_in_workplace

# Beyond limit and idle process, in MiB. 32 of it is compaction's least share (`UPKEEP_BYTES_MIN`), which a limit of 512 MiB
# holds and one of 32 does not; the rest is the batch each slot and each encoder has in hand, parts of uploads, and the
# allocator's pages, which it keeps per thread and size. Measured with the everyday build on busy cores: 81 to 87 at the
# peak; that a checkpoint of the table's log is written does not show.
OVERHEAD_MIB = 160
VEHICLES = 500
LINE_BYTES = 400

SQL = """
CREATE TABLE recorded (id BIGINT NOT NULL, vehicle TEXT NOT NULL, note TEXT);
CREATE MATERIALIZED VIEW counts AS SELECT vehicle, count(*) AS n FROM recorded GROUP BY vehicle;
INSERT INTO lake.rows SELECT * FROM recorded;
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipe", help="the binary; default: pipe of the cargo target directory")
    parser.add_argument("--memory", type=int, default=32, help="[limits] memory in MiB")
    parser.add_argument("--backlog", type=int, default=20, help="size of the file, in limits")
    parser.add_argument("--seconds", type=float, default=60, help="how long the store stalls")
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    return parser.parse_args()


def write_backlog(path, size):
    """Rows whose text does not compress to nothing; returns how many."""
    # One long random text, of which each row takes another part.
    text = os.urandom(200_000).hex()
    count = 0
    with open(path, "w") as file:
        written = 0
        while written < size:
            lines = []
            for _ in range(1_000):
                at = (count * 7_919) % (len(text) - LINE_BYTES)
                line = f'{{"id":{count},"vehicle":"v{count % VEHICLES}","note":"{text[at:at + LINE_BYTES - 45]}"}}\n'
                lines.append(line)
                count += 1
            block = "".join(lines)
            written += file.write(block)
    return count


def write_pipeline(directory, store, http, memory_mib):
    toml = pipeline.head("stall", store, http, 0, "2s", memory_mib) + """[source.recorded]
type = "file"
path = "backlog/*.jsonl"
format = "json"
"""
    return pipeline.put(directory, "stall", SQL, toml)


class Sampler(threading.Thread):
    """Resident memory of a process, several times a second."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.last, self.over = pid, 0, 0, threading.Event()
        self.samples = []

    def run(self):
        while not self.over.wait(0.1):
            self.look()

    def usual(self):
        """What 90 % of the samples stay below."""
        return sorted(self.samples)[len(self.samples) * 90 // 100]

    def look(self):
        try:
            pages = int(pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return self.last
        self.last = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        self.peak = max(self.peak, self.last)
        self.samples.append(self.last)
        return self.last


def status(http):
    return json.loads(get(f"http://127.0.0.1:{http}/api/v1/status"))


def until(what, holds, pipe, patience_seconds):
    end = time.monotonic() + patience_seconds
    while time.monotonic() < end:
        pipe.must_run()
        if holds():
            return
        time.sleep(0.2)
    raise SystemExit(f"not within {patience_seconds} s: {what}\n{pipe.tail()}")


def stall(args, directory):
    started = time.monotonic()

    def say(text):
        print(f"[{time.monotonic() - started:6.1f} s] {text}", flush=True)

    store, pipe, sampler = S3(directory / "s3", free_port()), None, None
    http = free_port()
    try:
        store.start()
        (directory / "backlog").mkdir()
        config = write_pipeline(directory, store, http, args.memory)
        pipe = Pipe(args.pipe, config, http, directory / "pipe.log", store.environment())
        pipe.start()
        until("the process answers", lambda: answers(http), pipe, 120)
        # Pages of the program that a first query touches belong to the idle process.
        ask(http, b"SELECT count(*) AS vehicles, sum(n) AS n FROM hot.counts")
        time.sleep(3)
        sampler = Sampler(pipe.process.pid)
        idle = sampler.look()
        say(f"idle: {idle:.0f} MiB resident, under [limits] memory = {args.memory} MiB")
        sampler.start()

        # Written elsewhere and moved: a file may grow, but this one is to be there at once.
        count = write_backlog(directory / "backlog.new", args.backlog * args.memory * 2**20)
        os.rename(directory / "backlog.new", directory / "backlog" / "a.jsonl")
        say(f"backlog: {count} rows, {args.backlog * args.memory} MiB")
        landed = lambda: status(http)["tables"].get("lake.rows", 0)
        until("rows land", lambda: landed() > 0, pipe, 120)

        check = Account(say)
        store.process.send_signal(signal.SIGSTOP)
        stalled_at = time.monotonic()
        say(f"{landed()} rows have landed; the store stops for {args.seconds:.0f} s")
        paused, worst = [], 0.0
        while time.monotonic() - stalled_at < args.seconds:
            asked = time.monotonic()
            get(f"http://127.0.0.1:{http}/livez")
            paused = status(http)["memory"]["paused"] or paused
            worst = max(worst, time.monotonic() - asked)
            time.sleep(0.5)
            pipe.must_run()
        before = landed()
        store.process.send_signal(signal.SIGCONT)
        say(f"the store goes on; peak so far {sampler.peak:.0f} MiB; slowest answer {worst:.2f} s")
        check.equal("cause of the pause in /api/v1/status", {"rows"}, {p["cause"] for p in paused})
        check.holds("the backlog was still waiting when the store went on", before < count, f"{before} of {count} rows landed")

        until("all rows land", lambda: landed() >= count, pipe, 900)
        time.sleep(5)
        say(f"all landed; early seals: {status(http)['memory']['early_seals']}; peak so far {sampler.peak:.0f} MiB")
        table = DeltaTable(f"{store.lake}/rows", storage_options=store.delta_options())
        ids = table.to_pyarrow_table(columns=["id"])["id"]
        check.equal("rows in the table", count, len(ids))
        check.equal("different rows in the table", count, pc.count_distinct(ids).as_py())
        count_by_chdb = chdb.query(f"SELECT count() FROM {store.chdb_table('rows')}", "CSV")
        check.equal("rows in the table, read by chdb", count, int(str(count_by_chdb)))
        log = sorted(path.name for path in (store.lake_files / "rows" / "_delta_log").iterdir())
        check.holds("the log has a checkpoint", any("checkpoint.parquet" in name for name in log), f"{len(log)} files")
        body = b"SELECT count(*) AS vehicles, sum(n) AS n FROM hot.counts"
        check.equal("hot state", dict(vehicles=VEHICLES, n=count), ask(http, body))
        say(f"peak after a query {sampler.peak:.0f} MiB")
        said = get(f"http://127.0.0.1:{http}/metrics").decode()
        broken = [l for l in said.splitlines() if l.startswith("pipe_invariant_violations") and not l.endswith(" 0")]
        check.equal("broken invariants", [], broken)
        sampler.over.set()
        bound = idle + args.memory + OVERHEAD_MIB
        text = f"idle {idle:.0f} + limit {args.memory} + overhead {OVERHEAD_MIB} = {bound:.0f} MiB"
        say(f"resident memory: usual {sampler.usual():.0f}, peak {sampler.peak:.0f} MiB; {text}")
        check.holds("peak of resident memory within its bound", sampler.peak <= bound, f"{sampler.peak:.0f} MiB, {text}")
        check.equal("exit code after SIGTERM", 0, pipe.stop())
        return check.finish()
    finally:
        if sampler is not None:
            sampler.over.set()
        if store.process is not None:
            store.process.send_signal(signal.SIGCONT)
        for service in (pipe, store):
            if service is not None:
                service.end()


def answers(http):
    try:
        return get(f"http://127.0.0.1:{http}/livez") is not None
    except OSError:
        return False


def ask(http, sql):
    request = urllib.request.Request(f"http://127.0.0.1:{http}/api/v1/sql", sql, {"Accept": "application/x-ndjson"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read().splitlines()[0])


if __name__ == "__main__":
    run_in_workplace("stall", arguments(), stall)
