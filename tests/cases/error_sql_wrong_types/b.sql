INSERT INTO lake.a SELECT vehicle_id, abs(fleet_id) AS a FROM points;
INSERT INTO lake.b SELECT vehicle_id FROM points WHERE speed = 'fast';
INSERT INTO lake.c SELECT vehicle_id FROM points WHERE speed;
