-- A deterministic, text-heavy database: about 570 MB as an uncompressed archive, about 160 MB
-- under gzip -6. psql variable: rows (450000 gives those figures).
--
-- Words are drawn by Zipf's law from a made-up vocabulary, sentences are made of words, and a row
-- of sentences. Sentences repeat, but 4 MB of them lie between two repetitions on average, far
-- beyond gzip's window of 32 KB: for the compressor every row is new text.
SET synchronous_commit = off;

CREATE FUNCTION pick(seed text, below bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT ('x' || substr(md5(seed), 1, 8))::bit(32)::bigint % below $$;

CREATE TABLE words AS
SELECT n, (SELECT string_agg(syllables[1 + pick(n || '.' || k, 40)], '' ORDER BY k)
           FROM generate_series(1, 1 + pick('length' || n, 3)) AS k) AS word
FROM generate_series(1, 6000) AS n,
     (SELECT string_to_array('ba de ki lo mu na re si to vu an el in or us cha ste pro gra fle '
        'con dis ment tion ing er al ic ous ve ry ly tra qui ph wo he ga zi jo', ' ') AS syllables) s;
CREATE UNIQUE INDEX ON words (n);

CREATE TABLE sentences AS
SELECT n, initcap(left(text, 1)) || substr(text, 2) || '. ' AS sentence
FROM (SELECT s AS n, string_agg(word, ' ' ORDER BY k) AS text
      FROM generate_series(0, 39999) AS s, generate_series(1, 18) AS k, words
      WHERE words.n = 1 + floor(exp(ln(6000) * pick(s || ':' || k, 1000000) / 1000000.0))::int % 6000
      GROUP BY s) made;
CREATE UNIQUE INDEX ON sentences (n);

CREATE TABLE notes AS
SELECT i AS id, md5(i::text)::uuid AS uid,
       timestamptz '2026-01-01 00:00Z' + i * interval '7 seconds' AS created_at,
       (SELECT string_agg(sentence, '' ORDER BY k)
        FROM generate_series(1, 11) AS k
        JOIN sentences ON n = pick(i || '/' || k, 40000)) AS body,
       pick('amount' || i, 1000000) / 100.0 AS amount
FROM generate_series(1, :rows) AS i;
ALTER TABLE notes ADD PRIMARY KEY (id);
