#!/bin/bash
# The part of upgrade-pg.sh that describes a database and the roles in lines of text, the same for every
# major version: the original and its copy are compared line by line. Sourced, never run.
#
# Left out is what the versions spell differently: NOT NULL as a constraint (18), the privilege MAINTAIN
# (17), bodies of views, grantors; and what belongs to extensions.

# The SQL for the rights in an ACL, in one order.
rights() {
  echo "(SELECT string_agg(DISTINCT concat_ws(':', CASE a.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(a.grantee) END,
    a.privilege_type, a.is_grantable), ',') FROM aclexplode($1) a WHERE a.privilege_type <> 'MAINTAIN')"
}

# The SQL for whether object $2 of catalog $1 belongs to no extension.
own() { echo "NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = '$1'::regclass AND d.objid = $2 AND d.deptype = 'e')"; }

# The SQL for the comment on object $2 of catalog $1, as a hash.
comment() { echo "coalesce((SELECT ' comment ' || md5(description) FROM pg_description o WHERE o.classoid = '$1'::regclass AND o.objoid = $2 AND o.objsubid = ${3:-0}), '')"; }

# Schemas that people make.
readonly PEOPLES="n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"

# Rows of all tables, sequences, large objects; then tables, columns, constraints, indexes, triggers, policies,
# functions, types, schemas, with owners, rights and comments; the database itself with its settings.
describe() {
  cat <<END
SET search_path = pg_catalog;
SELECT format('SELECT %L || count(*) FROM ONLY %I.%I', format('rows %I.%I ', n.nspname, c.relname), n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated) AND c.relpersistence <> 't' AND $PEOPLES AND $(own pg_class c.oid)
\\gexec
SELECT format('SELECT %L || last_value || '' '' || is_called FROM %I.%I', format('sequence %I.%I %s ', n.nspname, c.relname,
  concat_ws(',', format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcycle)), n.nspname, c.relname)
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND $PEOPLES AND $(own pg_class c.oid)
\\gexec
SELECT 'large objects ' || count(DISTINCT loid) || ' ' || coalesce(sum(length(data)), 0) || ' ' ||
  coalesce(sum(('x' || substr(md5(loid || ' ' || pageno || ' ' || md5(data)), 1, 12))::bit(48)::bigint), 0) FROM pg_largeobject;
SELECT format('large object %s owner %I rights %s', m.oid, pg_get_userbyid(m.lomowner), $(rights "coalesce(m.lomacl, acldefault('L', m.lomowner))"))
FROM pg_largeobject_metadata m;
SELECT format('relation %s %I.%I owner %I %s %s %s rights %s', c.relkind, n.nspname, c.relname, pg_get_userbyid(c.relowner),
  c.relpersistence, c.relrowsecurity, c.relreplident, $(rights "coalesce(c.relacl, acldefault((CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END)::\"char\", c.relowner))"))
  || $(comment pg_class c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND c.relpersistence <> 't' AND $PEOPLES AND $(own pg_class c.oid);
SELECT format('column %I.%I %s %I %s %s %s %s %s rights %s', n.nspname, c.relname,
  row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
  a.attidentity, to_jsonb(a) ->> 'attgenerated', pg_get_expr(x.adbin, x.adrelid), $(rights "a.attacl")) || $(comment pg_class c.oid a.attnum)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attrdef x ON x.adrelid = c.oid AND x.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND c.relpersistence <> 't' AND $PEOPLES
  AND $(own pg_class c.oid);
SELECT format('constraint %I %s on %s %s: %s', o.conname, o.contype, coalesce(format('%I.%I', n.nspname, c.relname), o.contypid::regtype::text),
  o.convalidated, pg_get_constraintdef(o.oid))
FROM pg_constraint o LEFT JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = o.connamespace
WHERE o.contype NOT IN ('n', 't') AND $PEOPLES AND (c.oid IS NULL OR c.relpersistence <> 't') AND $(own pg_class o.conrelid)
  AND $(own pg_type o.contypid);
SELECT 'index ' || pg_get_indexdef(i.indexrelid) || ' ' || concat_ws(',', i.indisunique, i.indisprimary, i.indisclustered)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND $PEOPLES AND $(own pg_class c.oid);
SELECT format('trigger %s %s', pg_get_triggerdef(t.oid), t.tgenabled)
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND $PEOPLES AND $(own pg_trigger t.oid);
SELECT format('policy %I on %I.%I %s %s %s: %s; %s', p.polname, n.nspname, c.relname, p.polcmd, p.polpermissive,
  (SELECT string_agg(CASE r WHEN 0 THEN 'public' ELSE pg_get_userbyid(r) END, ',' ORDER BY 1) FROM unnest(p.polroles) r),
  pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace;
SELECT format('rule %I on %I.%I %s', r.rulename, n.nspname, c.relname, r.ev_enabled)
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace WHERE $PEOPLES AND $(own pg_class c.oid);
SELECT format('function %s owner %I %s %s %s %s %s rights %s', p.oid::regprocedure, pg_get_userbyid(p.proowner), p.prokind, l.lanname,
  p.provolatile, p.prosecdef, md5(p.prosrc), $(rights "coalesce(p.proacl, acldefault('f', p.proowner))")) || $(comment pg_proc p.oid)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang WHERE $PEOPLES AND $(own pg_proc p.oid);
SELECT format('type %I.%I %s owner %I %s %s %s rights %s', n.nspname, t.typname, t.typtype, pg_get_userbyid(t.typowner),
  CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod) END, t.typdefault,
  (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
  $(rights "coalesce(t.typacl, acldefault('T', t.typowner))"))
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype IN ('d', 'e', 'r') AND $PEOPLES AND $(own pg_type t.oid);
SELECT format('schema %I owner %I rights %s', n.nspname, pg_get_userbyid(n.nspowner), $(rights "coalesce(n.nspacl, acldefault('n', n.nspowner))"))
FROM pg_namespace n WHERE $PEOPLES AND $(own pg_namespace n.oid);
SELECT format('default rights %I %s %s: %s', pg_get_userbyid(x.defaclrole), (SELECT nspname FROM pg_namespace WHERE oid = x.defaclnamespace),
  x.defaclobjtype, $(rights x.defaclacl)) FROM pg_default_acl x;
SELECT 'extension ' || extname FROM pg_extension;
SELECT format('event trigger %I %s', evtname, evtenabled) FROM pg_event_trigger e WHERE $(own pg_event_trigger e.oid);
SELECT format('publication %I ', pubname) || concat_ws(',', puballtables, pubinsert, pubupdate, pubdelete, pubtruncate) FROM pg_publication;
SELECT format('database owner %I %s %s %s limit %s rights %s', pg_get_userbyid(b.datdba), pg_encoding_to_char(b.encoding), b.datcollate,
  b.datctype, b.datconnlimit, $(rights "coalesce(b.datacl, acldefault('d', b.datdba))"))
FROM pg_database b WHERE b.datname = current_database() AND b.datname <> 'postgres';
SELECT format('database setting %s %s', coalesce(quote_ident(r.rolname), 'of all'), setting)
FROM pg_db_role_setting s JOIN pg_database b ON b.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) setting
WHERE b.datname = current_database() AND b.datname <> 'postgres';
END
}

# Roles with what they may, their passwords as hashes, memberships and settings.
describe_roles() {
  cat <<'END'
SET search_path = pg_catalog;
SELECT format('role %I %s limit %s until %s password=%s', rolname, concat_ws(',', rolsuper, rolinherit, rolcreaterole, rolcreatedb,
  rolcanlogin, rolreplication, rolbypassrls), rolconnlimit, rolvaliduntil, md5(coalesce(rolpassword, '')))
FROM pg_authid WHERE rolname !~ '^pg_';
SELECT DISTINCT format('member %I of %I %s', pg_get_userbyid(member), pg_get_userbyid(roleid), admin_option) FROM pg_auth_members
WHERE pg_get_userbyid(member) !~ '^pg_';
SELECT format('role setting %I %s', pg_get_userbyid(setrole), setting) FROM pg_db_role_setting, unnest(setconfig) setting WHERE setdatabase = 0;
END
}
