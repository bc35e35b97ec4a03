CREATE MATERIALIZED VIEW a AS
SELECT fleet_id, tumble(t, INTERVAL '1 minute') AS minute, count(*) AS n FROM points GROUP BY 1, 2;
CREATE VIEW b AS SELECT * FROM HOP(points, t, INTERVAL '1 minute', INTERVAL '5 minutes');
CREATE MATERIALIZED VIEW c AS SELECT fleet_id, count(*) AS n FROM points GROUP BY fleet_id EMIT CHANGES;
