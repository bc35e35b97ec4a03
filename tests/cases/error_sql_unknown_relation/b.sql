INSERT INTO lake.speeds SELECT vehicle_id, speed FROM point;
INSERT INTO lake.doors SELECT * FROM doors;
INSERT INTO lake.old SELECT * FROM lake.points;
