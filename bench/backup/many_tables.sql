-- Many tables with indexes, about 1 GB on disk as they are: 80 of one kind, each with a primary
-- key and three more indexes, and one big one. Deterministic. psql variables: tables, rows (of
-- each), big (rows of the big one).
SET synchronous_commit = off;

CREATE FUNCTION line(seed text, words int) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT string_agg(substr(md5(seed || k), 1, 3 + k % 6), ' ') FROM generate_series(1, words) AS k $$;

SELECT format('CREATE TABLE t%s AS SELECT i AS id, %s + i %% 977 AS group_id,
  timestamptz ''2026-01-01 00:00Z'' + i * interval ''11 seconds'' AS created_at,
  line(%L || i, 4) AS title, line(%L || i, 24) AS body, (i * 7919 %% 100000) / 100.0 AS amount
  FROM generate_series(1, %s) AS i', n, n, 'title' || n, 'body' || n, :rows)
FROM generate_series(1, :tables) AS n \gexec
SELECT format('ALTER TABLE t%s ADD PRIMARY KEY (id)', n) FROM generate_series(1, :tables) AS n \gexec
SELECT format('CREATE INDEX ON t%s (%s)', n, c)
FROM generate_series(1, :tables) AS n, unnest(ARRAY['group_id', 'created_at', 'title']) AS c \gexec

CREATE TABLE big AS SELECT i AS id, line('big' || i, 30) AS body, md5(i::text)::uuid AS uid
FROM generate_series(1, :big) AS i;
ALTER TABLE big ADD PRIMARY KEY (id);
CREATE INDEX ON big (uid);
