CREATE VIEW points AS SELECT vehicle_id FROM kinematic;
CREATE VIEW __mine AS SELECT vehicle_id FROM kinematic;
CREATE VIEW "a view" AS SELECT vehicle_id FROM kinematic;
INSERT INTO lake.a SELECT __msg FROM points;
INSERT INTO lake.b SELECT vehicle_id, vehicle_id FROM points;
INSERT INTO lake.c SELECT vehicle_id, speed * 3.6 FROM points;
INSERT INTO lake.d (a, b) SELECT vehicle_id FROM points;
