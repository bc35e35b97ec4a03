CREATE VIEW a WITH (watermark = t - INTERVAL '30 seconds') AS SELECT * FROM points;
CREATE VIEW b WITH (watermrk = 1) AS SELECT * FROM points;
CREATE MATERIALIZED VIEW c WITH (ttl = INTERVAL '1 day') AS SELECT fleet_id, count(*) AS n FROM points GROUP BY fleet_id;
CREATE TABLE ignition (vehicle_id TEXT) WITH (source = 'status', rout = (type = 'ignition'));
