INSERT INTO lake.speeds SELECT vehicle_id, speeed FROM points;
INSERT INTO lake.fast SELECT vehicle_id, speed FROM points WHERE sped > 100;
