INSERT INTO lake.both SELECT p.vehicle_id FROM points p JOIN status s ON p.vehicle_id = s.vehicle_id;
INSERT INTO lake.cross SELECT p.vehicle_id FROM points p, status s;
INSERT INTO lake.sub SELECT vehicle_id FROM points WHERE vehicle_id IN (SELECT vehicle_id FROM status);
INSERT INTO lake.unnested SELECT k.vehicle_id, u.t FROM kinematic k CROSS JOIN UNNEST(k.measurements) AS u;
