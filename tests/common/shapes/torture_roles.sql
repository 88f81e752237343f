-- Roles that the torture database refers to; may run twice in one cluster.
SET client_min_messages = warning;
SELECT format('CREATE ROLE %I', name) FROM unnest(ARRAY['torture_owner', 'torture_member', 'Größe 🐘', 'quo"te''', '-rf; $(x)',
                                                        'a=b', 'unused by any object']) name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec
ALTER ROLE torture_owner LOGIN PASSWORD 'it''s \ "secret"' CONNECTION LIMIT 7 VALID UNTIL '2040-01-01 00:00:00+00';
ALTER ROLE "Größe 🐘" CREATEDB CREATEROLE BYPASSRLS NOINHERIT;
ALTER ROLE torture_member SET work_mem = '5MB';
ALTER ROLE torture_member SET search_path = "$user", public, "we ird";
GRANT torture_owner TO torture_member WITH ADMIN OPTION;
GRANT "quo""te'" TO "Größe 🐘";
GRANT pg_read_all_data TO "-rf; $(x)";
COMMENT ON ROLE "a=b" IS E'two\nlines';
