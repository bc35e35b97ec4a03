-- What the messages look like. Where they come from is in pipelines/fleet.toml.

-- A vehicle reports its points in bundles.
CREATE TABLE kinematic (
  vehicle_id   TEXT NOT NULL,
  fleet_id     TEXT,
  sent_at      TIMESTAMP,
  measurements STRUCT<t TIMESTAMP, lat DOUBLE, lon DOUBLE, speed DOUBLE, heading DOUBLE, rpm INT, fuel DOUBLE>[]
);

-- One Kafka topic carries two shapes, told apart by the field "type".
CREATE TABLE ignition (vehicle_id TEXT NOT NULL, at TIMESTAMP, is_on BOOLEAN)
WITH (source = 'status', route = (type = 'ignition'));

CREATE TABLE status (vehicle_id TEXT NOT NULL, at TIMESTAMP, odometer_km DOUBLE, battery_v DOUBLE, codes TEXT[])
WITH (source = 'status', route = (type = 'status'));
