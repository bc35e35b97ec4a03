-- One row per measurement. Impossible coordinates (a receiver without a fix) are left out.
CREATE VIEW points AS
SELECT vehicle_id, fleet_id,
       m['t'] AS t, m['lat'] AS lat, m['lon'] AS lon, m['speed'] AS speed, m['heading'] AS heading, m['rpm'] AS rpm,
       m['fuel'] AS fuel
FROM (SELECT vehicle_id, fleet_id, unnest(measurements) AS m FROM kinematic)
WHERE m['lat'] BETWEEN -90 AND 90 AND m['lon'] BETWEEN -180 AND 180;
