CREATE MATERIALIZED VIEW a AS SELECT DISTINCT ON (vehicle_id) vehicle_id, t FROM points;
CREATE MATERIALIZED VIEW b AS SELECT DISTINCT ON (vehicle_id) vehicle_id, t FROM points ORDER BY vehicle_id;
CREATE MATERIALIZED VIEW c AS SELECT DISTINCT ON (vehicle_id) vehicle_id, t FROM points ORDER BY t DESC;
CREATE MATERIALIZED VIEW d AS SELECT DISTINCT ON (vehicle_id) vehicle_id, t FROM points ORDER BY vehicle_id, t DESC NULLS FIRST;
