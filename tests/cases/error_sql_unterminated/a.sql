CREATE TABLE kinematic (
  vehicle_id TEXT NOT NULL, fleet_id TEXT, sent_at TIMESTAMP,
  measurements STRUCT<t TIMESTAMP, lat DOUBLE, lon DOUBLE, speed DOUBLE>[]
);
CREATE TABLE status (vehicle_id TEXT NOT NULL, at TIMESTAMP, type TEXT, details JSON);
CREATE VIEW points AS
SELECT vehicle_id, fleet_id, m['t'] AS t, m['lat'] AS lat, m['speed'] AS speed
FROM (SELECT vehicle_id, fleet_id, unnest(measurements) AS m FROM kinematic);
INSERT INTO lake.points SELECT * FROM points;
INSERT INTO lake.status SELECT * FROM status;
