"""Point-in-time recovery as the bucket shows it: base backups, write-ahead log (WAL) and marks of
one PostgreSQL cluster. What makes them on the db host is scripts/wal-pg.sh. From outside:
`archive.WalArchive` reads the bucket, `chain.History` says how far back and forth one can go, and
`judge.judge` checks it.
"""
