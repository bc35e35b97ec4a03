CREATE MATERIALIZED VIEW a AS
SELECT fleet_id, median(speed) AS m, count(DISTINCT vehicle_id) AS v, array_agg(speed) AS s, sum(DISTINCT speed) AS d
FROM points GROUP BY fleet_id;
CREATE MATERIALIZED VIEW b AS SELECT fleet_id, speed, count(*) AS n FROM points GROUP BY fleet_id;
