INSERT INTO lake.speeds SELECT uper(vehicle_id) AS v, rond(speed) AS s FROM points;
