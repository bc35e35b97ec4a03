CREATE MATERIALIZED VIEW everything AS SELECT vehicle_id, t FROM points;
CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n FROM points;
