-- What the fleet's messages look like. The transport of each source is in pipelines/*.toml.

-- Devices report in bundles: one message carries the measurements since the last one.
CREATE TABLE kinematic (
  vehicle_id   TEXT NOT NULL,
  fleet_id     TEXT,
  sent_at      TIMESTAMP,
  measurements STRUCT<
    t TIMESTAMP, lat DOUBLE, lon DOUBLE, speed DOUBLE, heading DOUBLE, rpm INT, fuel DOUBLE
  >[]
);

-- One source, several shapes: routed by a field of the message.
CREATE TABLE ignition (
  vehicle_id TEXT NOT NULL,
  fleet_id   TEXT,
  at         TIMESTAMP,
  is_on      BOOLEAN
) WITH (source = 'status', route = (type = 'ignition'));

-- Every other message of the source: door, battery, fault codes. The details stay JSON.
CREATE TABLE status (
  vehicle_id TEXT NOT NULL,
  fleet_id   TEXT,
  at         TIMESTAMP,
  type       TEXT,
  details    JSON
) WITH (source = 'status');
