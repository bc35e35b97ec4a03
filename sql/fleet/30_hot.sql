-- The current truth, in memory, queryable while it changes.

-- Where every vehicle is. Out-of-order and repeated reports change nothing: the greatest t wins.
CREATE MATERIALIZED VIEW vehicle_latest AS
SELECT DISTINCT ON (vehicle_id) vehicle_id, fleet_id, t, lat, lon, speed, heading, fuel
FROM points
ORDER BY vehicle_id, t DESC;

CREATE MATERIALIZED VIEW ignition_latest AS
SELECT DISTINCT ON (vehicle_id) vehicle_id, fleet_id, at, is_on
FROM ignition
ORDER BY vehicle_id, at DESC;

CREATE MATERIALIZED VIEW speed_1m AS
SELECT fleet_id, date_bin(INTERVAL '1 minute', t) AS minute,
       count(*) AS n, avg(speed) AS avg_speed, max(speed) AS max_speed,
       count(*) FILTER (WHERE speed > 110) AS over_speed
FROM points
GROUP BY fleet_id, date_bin(INTERVAL '1 minute', t);
