CREATE MATERIALIZED VIEW last_position AS
SELECT DISTINCT ON (vehicle_id) vehicle_id, t, lat FROM points ORDER BY vehicle_id, t DESC;
INSERT INTO lake.last_position SELECT * FROM last_position;
