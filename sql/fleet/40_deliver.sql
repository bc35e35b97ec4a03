-- Append-only: every row once.
INSERT INTO lake.points SELECT *, CAST(t AS DATE) AS event_date FROM points;
INSERT INTO lake.ignition SELECT * FROM ignition;
INSERT INTO lake.status SELECT * FROM status;

-- Upserts: newest wins.
INSERT INTO kv.vehicle_latest SELECT * FROM vehicle_latest;
