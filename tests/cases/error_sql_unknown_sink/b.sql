INSERT INTO lak.speeds SELECT vehicle_id, speed FROM points;
INSERT INTO speeds SELECT vehicle_id, speed FROM points;
