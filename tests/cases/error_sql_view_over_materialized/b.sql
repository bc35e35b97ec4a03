CREATE MATERIALIZED VIEW speeds AS SELECT vehicle_id, max(speed) AS top FROM points GROUP BY vehicle_id;
CREATE VIEW fast AS SELECT vehicle_id FROM speeds WHERE top > 100;
CREATE MATERIALIZED VIEW fleets AS SELECT top, count(*) AS n FROM speeds GROUP BY top;
INSERT INTO kv.fast SELECT vehicle_id, top, now() AS at FROM speeds;
