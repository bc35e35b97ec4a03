CREATE MATERIALIZED VIEW last_position AS
SELECT DISTINCT ON (vehicle_id) vehicle_id, t, lat FROM points ORDER BY vehicle_id, t DESC;
CREATE MATERIALIZED VIEW first_position AS
SELECT DISTINCT ON (vehicle_id) vehicle_id, t, lat FROM points ORDER BY vehicle_id, t;
INSERT INTO kv.positions SELECT * FROM last_position;
INSERT INTO kv.positions SELECT * FROM first_position;
