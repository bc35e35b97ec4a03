INSERT INTO lake.a SELECT vehicle_id FROM points ORDER BY vehicle_id LIMIT 10;
INSERT INTO lake.b SELECT vehicle_id, lag(speed) OVER (PARTITION BY vehicle_id ORDER BY t) AS before FROM points;
INSERT INTO lake.c SELECT vehicle_id FROM points TABLESAMPLE (10);
INSERT INTO lake.d SELECT vehicle_id FROM points FOR SYSTEM_TIME AS OF TIMESTAMP '2026-01-01';
INSERT INTO lake.e SELECT vehicle_id FROM points UNION SELECT vehicle_id FROM status;
SELECT * FROM points;
