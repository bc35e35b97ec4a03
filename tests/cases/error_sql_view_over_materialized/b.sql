CREATE MATERIALIZED VIEW speeds AS SELECT vehicle_id, max(speed) AS fastest FROM points GROUP BY vehicle_id;
CREATE VIEW fast AS SELECT vehicle_id FROM speeds WHERE fastest > 100;
CREATE MATERIALIZED VIEW fleets AS SELECT fastest, count(*) AS n FROM speeds GROUP BY fastest;
INSERT INTO kv.fast SELECT vehicle_id, fastest, now() AS at FROM speeds;
