CREATE VIEW counts AS SELECT fleet_id, count(*) AS n FROM points GROUP BY fleet_id;
CREATE VIEW latest AS SELECT DISTINCT ON (vehicle_id) vehicle_id, t FROM points ORDER BY vehicle_id, t DESC;
INSERT INTO lake.fleets SELECT DISTINCT fleet_id FROM points;
