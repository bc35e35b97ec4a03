INSERT INTO kv.points SELECT * FROM points;
