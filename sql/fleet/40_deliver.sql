-- Append-only tables of the lake: every row once.
INSERT INTO lake.points SELECT *, CAST(t AS DATE) AS event_date FROM points;
INSERT INTO lake.ignition SELECT *, CAST(at AS DATE) AS event_date FROM ignition;
INSERT INTO lake.status SELECT *, CAST(at AS DATE) AS event_date FROM status;

-- Upserts: one row per vehicle, newest wins.
INSERT INTO kv.vehicle_latest SELECT * FROM vehicle_latest;
INSERT INTO kv.ignition_latest SELECT * FROM ignition_latest;
