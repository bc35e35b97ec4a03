"""A small fleet for the end-to-end test: what its devices send, and what must come out, computed here and nowhere else.

Nothing of pipe is used, so that a fault of its simulator or its SQL cannot hide itself. All numbers are multiples of 1/4:
sums are exact in any order. `expected_*` restate the SQL of `sql()` in plain Python over the messages that were sent.
"""

import datetime
import json
import random
from collections import Counter, defaultdict

VEHICLES = 500
START = datetime.datetime(2026, 11, 1, tzinfo=datetime.timezone.utc)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MALFORMED_SHARE = 0.01
DUPLICATE_SHARE = 0.03
OUT_OF_RANGE_SHARE = 0.005

SQL = """
CREATE TABLE kinematic (
  message_id   BIGINT NOT NULL,
  vehicle_id   TEXT NOT NULL,
  fleet_id     TEXT,
  seq          BIGINT,
  sent_at      TIMESTAMP,
  measurements STRUCT<t TIMESTAMP, lat DOUBLE, lon DOUBLE, speed DOUBLE, fuel DOUBLE>[]
);
CREATE TABLE ignition (message_id BIGINT NOT NULL, vehicle_id TEXT NOT NULL, at TIMESTAMP, is_on BOOLEAN)
  WITH (source = 'status', route = (type = 'ignition'));
CREATE TABLE odometer (message_id BIGINT NOT NULL, vehicle_id TEXT NOT NULL, at TIMESTAMP, km DOUBLE)
  WITH (source = 'status', route = (type = 'odometer'));

CREATE VIEW points AS
SELECT message_id, vehicle_id, fleet_id, m['t'] AS t, m['lat'] AS lat, m['lon'] AS lon, m['speed'] AS speed, m['fuel'] AS fuel
FROM (SELECT message_id, vehicle_id, fleet_id, unnest(measurements) AS m FROM kinematic)
WHERE m['lat'] BETWEEN -90 AND 90;

CREATE MATERIALIZED VIEW vehicle_latest AS
SELECT DISTINCT ON (vehicle_id) vehicle_id, fleet_id, t, lat, lon, speed, fuel FROM points ORDER BY vehicle_id, t DESC;

CREATE MATERIALIZED VIEW vehicle_totals AS
SELECT vehicle_id, count(*) AS n, sum(speed) AS speed_sum, min(t) AS first_t, max(t) AS last_t, max(speed) AS speed_max
FROM points GROUP BY vehicle_id;

CREATE MATERIALIZED VIEW ignition_latest AS
SELECT DISTINCT ON (vehicle_id) vehicle_id, at, is_on FROM ignition ORDER BY vehicle_id, at DESC;

INSERT INTO lake.points SELECT *, CAST(t AS DATE) AS event_date FROM points;
INSERT INTO lake.kinematic SELECT message_id, vehicle_id, seq FROM kinematic;
INSERT INTO lake.ignition SELECT * FROM ignition;
INSERT INTO lake.odometer SELECT * FROM odometer;
INSERT INTO kv.vehicle_latest SELECT * FROM vehicle_latest;
INSERT INTO kv.ignition_latest SELECT * FROM ignition_latest;
"""


class Fleet:
    """Makes messages, good and bad: kinematic ones for Kafka, status for MQTT; (vehicle, bytes) in sending order. Message
    ids are dense over the fleet, `seq` is dense over the kinematic messages of a vehicle."""

    def __init__(self, seed, vehicles=VEHICLES, duplicate_share=DUPLICATE_SHARE):
        self.random = random.Random(seed)
        self.vehicles, self.duplicate_share = vehicles, duplicate_share
        self.next_id = 0
        self.numbers = Counter()  # kinematic messages per vehicle
        self.ticks = Counter()  # per vehicle: every timestamp is used once, so "latest" has one answer

    def points(self, count):
        return self._sent([self._kinematic() for _ in range(round(count * (1 - self.duplicate_share)))], count)

    def status(self, count):
        return self._sent([self._status() for _ in range(round(count * (1 - self.duplicate_share)))], count)

    def _sent(self, messages, count):
        """In sending order: each up to 2,000 places late, and some twice, as by a device that missed an answer."""
        places = [(i + self.random.uniform(0, 2_000), m) for i, m in enumerate(messages)]
        for _ in range(count - len(messages)):
            again = self.random.randrange(len(messages))
            places.append((again + self.random.uniform(0, 10_000), messages[again]))
        return [m for _, m in sorted(places, key=lambda p: p[0])]

    def _head(self):
        skewed = self.random.expovariate(1 / 80)  # a few vehicles send most
        vehicle = min(int(skewed), self.vehicles - 1)
        self.next_id += 1
        return f"v{vehicle:04}", self.next_id

    def _time(self, vehicle):
        self.ticks[vehicle] += 1
        return iso(START + datetime.timedelta(milliseconds=250 * self.ticks[vehicle]))

    def _kinematic(self):
        vehicle, number = self._head()
        self.numbers[vehicle] += 1
        bundle = []
        for _ in range(int(self.random.random() * 6)):
            lat = 95.0 if self.random.random() < OUT_OF_RANGE_SHARE else self._quarter(-60, 70)
            bundle.append(
                f'{{"t":"{self._time(vehicle)}","lat":{lat},"lon":{self._quarter(-180, 180)},'
                f'"speed":{self._quarter(0, 130)},"fuel":{self._quarter(0, 80)}}}'
            )
        bundle.reverse()  # not in the order of time within a message either
        text = (
            f'{{"message_id":{number},"vehicle_id":"{vehicle}","fleet_id":"f{int(vehicle[1:]) % 7}",'
            f'"seq":{self.numbers[vehicle]},"sent_at":"{iso(START)}","measurements":[{",".join(bundle)}]}}'
        )
        return vehicle, self._maybe_malformed(text, "fleet_id")

    def _status(self):
        vehicle, number = self._head()
        at = self._time(vehicle)
        if self.random.random() < 0.5:
            rest = f'"type":"ignition","is_on":{"true" if self.random.random() < 0.5 else "false"}'
        else:
            rest = f'"type":"odometer","km":{self._quarter(0, 300_000)}'
        return vehicle, self._maybe_malformed(f'{{"message_id":{number},"vehicle_id":"{vehicle}","at":"{at}",{rest}}}', "at")

    def _quarter(self, low, high):
        return (low * 4 + int(self.random.random() * (high - low) * 4)) / 4

    def _maybe_malformed(self, text, some_text_field):
        good = text.encode()
        if self.random.random() >= MALFORMED_SHARE:
            return good
        message = json.loads(text)
        kind = self.random.randrange(5)
        if kind == 0:
            return good[: len(good) - 10]  # cut on the way
        if kind == 1:
            return json.dumps({k: v for k, v in message.items() if k != "vehicle_id"}).encode()  # NOT NULL is missing
        if kind == 2:
            return json.dumps({**message, "message_id": str(message["message_id"])}).encode()  # text for a number
        if kind == 3:
            return json.dumps({**message, some_text_field: ["?", message["message_id"]]}).encode()  # an array for text
        return b'\xff\xfe{"message_id": %d}' % message["message_id"]  # not UTF-8


def iso(t):
    return t.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def good(payload):
    """The message, or None if it must be in the dead letters: restated here from the rules of strict decoding."""
    try:
        message = json.loads(payload)
    except ValueError:
        return None
    if not isinstance(message.get("message_id"), int) or not isinstance(message.get("vehicle_id"), str):
        return None
    texts = [message.get(k) for k in ("fleet_id", "at") if k in message]
    return message if all(isinstance(t, str) for t in texts) else None


def micros(text):
    since = datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def expected_points(sent, out=None):
    """What the Kafka-fed tables, views and keys must hold: exact, duplicates of devices included. Adds to `out`."""
    if out is None:
        out = dict(messages=0, dropped=0, dead=Counter(), ids=[], rows=0, per_vehicle=defaultdict(lambda: [0, 0.0]))
        out |= dict(sequences=defaultdict(lambda: [0, 0]), latest={}, totals={})
    out["messages"] += len(sent)
    for _, payload in sent:
        message = good(payload)
        if message is None:
            out["dead"][bytes(payload)] += 1
            continue
        vehicle = message["vehicle_id"]
        out["ids"].append(message["message_id"])
        out["sequences"][vehicle][0] += 1
        out["sequences"][vehicle][1] += message["seq"]
        for m in message["measurements"]:
            if not -90 <= m["lat"] <= 90:
                continue
            t = micros(m["t"])
            out["rows"] += 1
            out["per_vehicle"][vehicle][0] += 1
            out["per_vehicle"][vehicle][1] += m["speed"]
            if vehicle not in out["latest"] or t > out["latest"][vehicle]["t"]:
                latest = dict(vehicle_id=vehicle, fleet_id=message["fleet_id"], t=t)
                out["latest"][vehicle] = latest | {k: m[k] for k in ("lat", "lon", "speed", "fuel")}
            total = out["totals"].setdefault(vehicle, dict(n=0, speed_sum=0.0, first_t=t, last_t=t, speed_max=0.0))
            total["n"] += 1
            total["speed_sum"] += m["speed"]
            total["first_t"], total["last_t"] = min(total["first_t"], t), max(total["last_t"], t)
            total["speed_max"] = max(total["speed_max"], m["speed"])
    return out


def expected_status(sent, out=None):
    """What the MQTT-fed tables must hold after redeliveries are removed by message identity. Adds to `out`."""
    if out is None:
        out = dict(messages=0, dead=set(), ignition={}, odometer={}, latest={})
    out["messages"] += len(sent)
    for _, payload in sent:
        message = good(payload)
        if message is None:
            out["dead"].add(bytes(payload))
            continue
        kind = message["type"]
        row = (message["vehicle_id"], micros(message["at"]), message.get("is_on", message.get("km")))
        out[kind][message["message_id"]] = row
        if kind == "ignition":
            vehicle, at, is_on = row
            if vehicle not in out["latest"] or at > out["latest"][vehicle]["at"]:
                out["latest"][vehicle] = dict(vehicle_id=vehicle, at=at, is_on=is_on)
    return out
