CREATE MATERIALIZED VIEW last_position AS
SELECT DISTINCT ON (vehicle_id) vehicle_id, t, lat FROM points ORDER BY vehicle_id, t DESC;
CREATE MATERIALIZED VIEW fleets AS SELECT count(*) AS n FROM points GROUP BY fleet_id;
INSERT INTO kv.last_position SELECT t, lat FROM last_position;
