CREATE SOURCE kafka_points WITH (topic = 'points');
CREATE SINK s3_points;
CREATE STREAM fast AS SELECT * FROM points;
UPSERT INTO kv.points SELECT * FROM points;
MERGE INTO lake.points USING points ON true;
DROP VIEW points;
INSERT INTO kv.points SELECT * FROM points ON CONFLICT (vehicle_id) DO UPDATE SET t = EXCLUDED.t;
