// The lab's NocoDB speaks to PostgreSQL only. The real package would need a compiler or a
// prebuilt binary from a place that a closed network does not reach.
'use strict';

class Database {
  constructor() {
    throw new Error('this NocoDB image has no SQLite: give it a PostgreSQL database (NC_DB)');
  }
}

module.exports = { Database, verbose: () => module.exports };
