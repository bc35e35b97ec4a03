INSERT INTO lake.speeds SELECT vehicle_id, m['sped'] AS s FROM (SELECT vehicle_id, unnest(measurements) AS m FROM kinematic);
