CREATE VIEW ages AS SELECT vehicle_id, fleet_id, date_part('epoch', now()) - date_part('epoch', t) AS age_s FROM points;
CREATE VIEW old AS SELECT * FROM ages WHERE age_s > 60;
CREATE MATERIALIZED VIEW ages_by_fleet AS SELECT fleet_id, max(age_s) AS age_s FROM old GROUP BY fleet_id;
INSERT INTO lake.ages SELECT * FROM ages;
CREATE MATERIALIZED VIEW recent AS
SELECT fleet_id, count(*) AS n, max(random()) AS r FROM points WHERE t > now() - INTERVAL '1 day' GROUP BY fleet_id;
