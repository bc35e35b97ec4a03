CREATE VIEW a AS SELECT vehicle_id FORM points;
CREATE VIEW b AS SELECT (vehicle_id FROM points;
CREATE VIEW c AS SELECT vehicle_id FROM a WHERE;
INSERT INTO lake.c SELECT nothing_at_all FROM a;
INSERT INTO lake.d SELECT nothing_at_all FROM points;
