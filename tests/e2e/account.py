"""Compares what came out with what must: each line of the account is a name, what was expected and what was found."""

import json
import subprocess
import warnings
import time
import urllib.error
import urllib.parse
from collections import Counter

import adbc_driver_flightsql.dbapi as flightsql
import chdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight
from confluent_kafka import Consumer, TopicPartition
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from service import get

DRAIN_PATIENCE_SECONDS = 240

# Flight SQL has no transactions to switch off.
warnings.filterwarnings("ignore", message="Cannot disable autocommit")


class Account:
    """`brief`: only what is wrong is said line by line."""

    def __init__(self, say, brief=False):
        self.say, self.brief = say, brief
        self.failed, self.passed = [], 0

    def equal(self, name, expected, found):
        if expected == found:
            self.passed += 1
            if not self.brief:
                self.say(f"  ok    {name}: {shown(expected)}")
        else:
            self.failed.append(name)
            self.say(f"  WRONG {name}: expected {shown(expected)}, found {shown(found)}{difference(expected, found)}")

    def holds(self, name, holds, detail=""):
        self.equal(name, True, bool(holds)) if holds or not detail else self.equal(f"{name} ({detail})", True, False)

    def finish(self):
        self.say(f"{self.passed} passed, {len(self.failed)} failed" + "".join(f"\n    {name}" for name in self.failed))
        return not self.failed


def shown(value):
    if isinstance(value, (dict, set, list, Counter)):
        return f"{len(value)} entries"
    return str(value)


def difference(expected, found):
    """The first entries that differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = [k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)]
        lines = [f"{str(k)[:200]}: expected {expected.get(k)}, found {found.get(k)}" for k in sorted(keys, key=str)[:5]]
    elif isinstance(expected, list) and isinstance(found, list):
        keys = list((Counter(expected) - Counter(found)) | (Counter(found) - Counter(expected)))
        lines = [f"{str(k)[:200]}: expected {expected.count(k)} times, found {found.count(k)} times" for k in keys[:5]]
    elif isinstance(expected, set) and isinstance(found, set):
        keys = expected ^ found
        lines = [f"{'missing' if k in expected else 'too many'}: {str(k)[:200]}" for k in list(keys)[:5]]
    else:
        return ""
    return f"; {len(keys)} differ" + "".join(f"\n          {line}" for line in lines)


class Readers:
    """Every way to read that the test knows."""

    def __init__(self, store, http, flight):
        self.store, self.http, self.flight = store, http, flight

    def delta(self, table):
        return DeltaTable(f"{self.store.lake}/{table}", storage_options=self.store.delta_options())

    def lake(self, table, columns=None):
        return self.delta(table).to_pyarrow_table(columns=columns)

    def count(self, table):
        try:
            return self.delta(table).to_pyarrow_dataset().count_rows()
        except TableNotFoundError:
            return 0

    def sql(self, query):
        with flightsql.connect(f"grpc://127.0.0.1:{self.flight}") as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetch_arrow_table()

    def http_json(self, path):
        return json.loads(get(f"http://127.0.0.1:{self.http}{path}"))

    def distinct(self, table, column):
        try:
            return len(pc.unique(self.lake(table, [column])[column]))
        except TableNotFoundError:
            return 0

    def wait_until_drained(self, expected, pipe, settle_seconds=5):
        """Until the tables have what they must have, or stop growing. What MQTT brings may come twice, so that its rows are
        counted by identity."""
        points, status = expected
        wanted = {
            ("points", None): points["rows"],
            ("kinematic", None): len(points["ids"]),
            ("ignition", "message_id"): len(status["ignition"]),
            ("odometer", "message_id"): len(status["odometer"]),
            ("dead_letter", "payload"): len(points["dead"]) + len(status["dead"]),
        }
        last, since = None, time.monotonic()
        while time.monotonic() - since < DRAIN_PATIENCE_SECONDS:
            pipe.must_run()
            now = {(table, by): self.distinct(table, by) if by else self.count(table) for table, by in wanted}
            if all(now[part] >= wanted[part] for part in wanted):
                # Nothing may come after it either: two checkpoint intervals.
                time.sleep(settle_seconds)
                return
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > 60:
                return
            time.sleep(0.5)


def rows_by_key(table, key):
    return {row[key]: row for row in as_micros(table).to_pylist()}


def as_micros(table):
    """Timestamps as microseconds, so that no time zone can hide a difference."""
    for i, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(i, field.name, pc.cast(pc.cast(table[i], pa.timestamp("us", "UTC")), pa.int64()))
    return table


def compare_lake(check, readers, expected):
    points, status = expected
    table = readers.lake("points", ["vehicle_id", "speed", "t", "event_date"])
    check.equal("lake.points rows", points["rows"], table.num_rows)
    grouped = table.group_by("vehicle_id").aggregate([("speed", "count"), ("speed", "sum")]).to_pylist()
    per_vehicle = {g["vehicle_id"]: [g["speed_count"], g["speed_sum"]] for g in grouped}
    check.equal("lake.points rows and sum of speed per vehicle", dict(points["per_vehicle"]), per_vehicle)
    days = pc.equal(pc.cast(table["t"], pa.date32()), table["event_date"])
    check.holds("lake.points every row in the partition of its day", pc.all(days).as_py())
    messages = readers.lake("kinematic")
    check.equal("lake.kinematic by message identity", sorted(points["ids"]), sorted(messages["message_id"].to_pylist()))
    grouped = messages.group_by("vehicle_id").aggregate([("seq", "count"), ("seq", "sum")]).to_pylist()
    sequences = {g["vehicle_id"]: [g["seq_count"], g["seq_sum"]] for g in grouped}
    check.equal("lake.kinematic count and sum of sequence numbers per vehicle", dict(points["sequences"]), sequences)

    for name, column in (("ignition", "is_on"), ("odometer", "km")):
        rows = as_micros(readers.lake(name)).to_pylist()
        found = {}
        for row in rows:
            value = (row["vehicle_id"], row["at"], row[column])
            if found.setdefault(row["message_id"], value) != value:
                found[row["message_id"]] = "two different rows"
        check.equal(f"lake.{name} by message identity ({len(rows) - len(found)} came twice)", status[name], found)

    dead = readers.lake("dead_letter").to_pylist()
    from_kafka = Counter(d["payload"] for d in dead if d["source"] == "kinematic")
    check.equal("dead letters of Kafka", dict(points["dead"]), dict(from_kafka))
    places = {(d["topic"], d["partition"], d["position"]) for d in dead if d["source"] == "kinematic"}
    check.equal("dead letters of Kafka, each at a place of its own", points["dead"].total(), len(places))
    check.equal("dead letters of MQTT", status["dead"], {d["payload"] for d in dead if d["source"] == "status"})
    check.equal("dead letters without a reason", 0, sum(not d["reason"] for d in dead))


def compare_replay(check, readers, expected, dead, outcome):
    """Every dead letter has failed a second time, as the message it was, and nothing else has changed."""
    check.equal("replayed dead letters", (0, len(dead)), (outcome["replayed"], outcome["rejected_again"]))
    identity = ("source", "topic", "partition", "position", "key", "received_at", "timestamp", "headers", "payload", "reason")
    attempts = {}
    for letter in readers.lake("dead_letter").to_pylist():
        attempts.setdefault(tuple(letter[column] for column in identity), []).append(letter["attempt"])
    check.equal("dead letters by identity", len(dead), len(attempts))
    check.holds("dead letters have two attempts each", all(sorted(a) == [1, 2] for a in attempts.values()))
    messages = readers.lake("kinematic")
    check.equal("lake.kinematic after the replay", sorted(expected[0]["ids"]), sorted(messages["message_id"].to_pylist()))


def compare_hot(check, readers, expected):
    points, status = expected
    check.equal("hot.vehicle_latest", points["latest"], rows_by_key(readers.sql("SELECT * FROM hot.vehicle_latest"), "vehicle_id"))
    totals = rows_by_key(readers.sql("SELECT * FROM hot.vehicle_totals"), "vehicle_id")
    wanted = {v: {"vehicle_id": v} | total for v, total in points["totals"].items()}
    check.equal("hot.vehicle_totals", wanted, totals)
    check.equal("hot.ignition_latest", status["latest"], rows_by_key(readers.sql("SELECT * FROM hot.ignition_latest"), "vehicle_id"))
    through_us = readers.sql("SELECT count(*) AS n, sum(speed) AS s FROM lake.points").to_pylist()[0]
    speed_sum = sum(total["speed_sum"] for total in points["totals"].values())
    check.equal("lake.points through Flight SQL", dict(n=points["rows"], s=speed_sum), through_us)


def compare_kv(check, readers, expected):
    points, status = expected
    for name, latest in (("vehicle_latest", points["latest"]), ("ignition_latest", status["latest"])):
        found = {}
        for vehicle in latest:
            try:
                value = readers.http_json(f"/api/v1/kv/kv/{name}?" + urllib.parse.urlencode({"key": vehicle}))
                found[vehicle] = {k: to_micros(v) if k in ("t", "at") else v for k, v in value.items()}
            except urllib.error.HTTPError as e:
                found[vehicle] = f"HTTP {e.code}"
        check.equal(f"kv {name} over HTTP", latest, found)


def to_micros(value):
    return value if isinstance(value, int) else pc.cast(pa.scalar(value).cast(pa.timestamp("us", "UTC")), pa.int64()).as_py()


def compare_ledger(check, readers, expected):
    """received = decoded + rejected + dropped, per source, since the chain began."""
    points, status = expected
    ledger = {row["source"]: row for row in readers.sql(
        "SELECT source, sum(received) AS received, sum(decoded) AS decoded, sum(rejected) AS rejected, sum(dropped) AS dropped "
        "FROM system.sources GROUP BY source"
    ).to_pylist()}
    kafka = {k: ledger["kinematic"][k] for k in ("received", "decoded", "rejected", "dropped")}
    rejected = points["dead"].total()
    wanted = dict(decoded=points["messages"] - rejected, rejected=rejected, dropped=points["dropped"])
    wanted["received"] = wanted["decoded"] + rejected + wanted["dropped"]
    check.equal("ledger of Kafka", wanted, kafka)
    mqtt = ledger["status"]
    check.equal("ledger of MQTT balances", mqtt["received"], mqtt["decoded"] + mqtt["rejected"] + mqtt["dropped"])
    check.holds("ledger of MQTT has every message", mqtt["received"] >= status["messages"], f"{mqtt['received']} received")


def compare_chdb(check, readers, expected):
    """The lake read by a second reader that was not written here, against the first and against what was sent."""
    points, _ = expected
    for table in ("kinematic", "ignition", "odometer", "dead_letter"):
        counted = chdb.query(f"SELECT count() FROM {readers.store.chdb_table(table)}", "CSV")
        check.equal(f"lake.{table} counted by chdb and deltalake", readers.count(table), int(str(counted)))
    counted = chdb.query(f"SELECT count() AS n, sum(speed) AS s FROM {readers.store.chdb_table('points')}", "JSON")
    row = json.loads(str(counted))["data"][0]
    speed_sum = sum(total["speed_sum"] for total in points["totals"].values())
    check.equal("lake.points read by chdb", (points["rows"], speed_sum), (int(row["n"]), float(row["s"])))


def check_clients(check, readers, expected):
    """Clients that were not written here."""
    points, _ = expected

    client = pyarrow.flight.connect(f"grpc://127.0.0.1:{readers.flight}")
    info = client.get_flight_info(pyarrow.flight.FlightDescriptor.for_command(b"SELECT count(*) AS n FROM hot.vehicle_latest"))
    found = client.do_get(info.endpoints[0].ticket).read_all().to_pylist()
    check.equal("hot.vehicle_latest counted by pyarrow Flight", [dict(n=len(points["latest"]))], found)

    with flightsql.connect(f"grpc://127.0.0.1:{readers.flight}") as connection:
        with connection.cursor() as cursor:
            vehicle = next(iter(points["latest"]))
            cursor.execute("SELECT speed FROM hot.vehicle_latest WHERE vehicle_id = ?", parameters=(vehicle,))
            check.equal("a prepared statement through ADBC", [(points["latest"][vehicle]["speed"],)], cursor.fetchall())
        objects = connection.adbc_get_objects(depth="tables").read_all().to_pylist()
        schemas = {s["db_schema_name"]: {t["table_name"] for t in s["db_schema_tables"]} for c in objects for s in c["catalog_db_schemas"]}
        wanted = {"vehicle_latest", "vehicle_totals", "ignition_latest"}
        check.equal("ADBC GetObjects: tables of hot", wanted, schemas.get("hot"))
        check.holds("ADBC GetObjects: tables of lake", {"points", "ignition", "odometer"} <= schemas.get("lake", set()), str(schemas.get("lake")))

    metrics = get(f"http://127.0.0.1:{readers.http}/metrics")
    told = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True)
    check.equal("promtool check metrics", (0, b""), (told.returncode, told.stdout + told.stderr))
    check.holds("metrics of pipe are there", b"\npipe_" in metrics)
    check_invariants(check, readers)


def check_invariants(check, readers):
    metrics = get(f"http://127.0.0.1:{readers.http}/metrics")
    broken = [line for line in metrics.decode().splitlines() if line.startswith("pipe_invariant_violations") and not line.endswith(" 0")]
    check.equal("broken invariants", [], broken)


def check_kafka_group(check, bootstrap, topic):
    """Lag tools see that everything was applied (positions are committed a moment after the checkpoint)."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "pipe-e2e"})
    try:
        partitions = [TopicPartition(topic, p) for p in consumer.list_topics(topic, timeout=10).topics[topic].partitions]
        until = time.monotonic() + 20
        while True:
            lag = 0
            for committed in consumer.committed(partitions, timeout=10):
                low, high = consumer.get_watermark_offsets(committed, timeout=10)
                lag += high - (committed.offset if committed.offset >= 0 else low)
            if lag == 0 or time.monotonic() > until:
                break
            time.sleep(1)
        check.equal("lag of the group at the Kafka broker", 0, lag)
    finally:
        consumer.close()
