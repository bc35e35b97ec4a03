INSERT INTO lake.mixed SELECT vehicle_id, speed AS value FROM points;
INSERT INTO lake.mixed SELECT vehicle_id, type AS value FROM status;
