"""Other versions: PostgreSQL's next major one, copied and compared; NocoDB's, with the way back."""
