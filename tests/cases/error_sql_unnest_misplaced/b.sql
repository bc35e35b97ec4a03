CREATE MATERIALIZED VIEW a AS SELECT vehicle_id, count(unnest(measurements)) AS n FROM kinematic GROUP BY vehicle_id;
INSERT INTO lake.b SELECT vehicle_id FROM kinematic WHERE unnest(measurements) IS NULL;
INSERT INTO lake.c SELECT unnest(vehicle_id) AS v FROM kinematic;
