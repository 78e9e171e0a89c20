-- Roles for the service, each with the rights that it needs and no others. For psql, in the service's own database, as
-- somebody who may make roles there:
--
--   psql -v app=todos_app -f roles.sql DATABASE
--
-- Once before the first `ridethrough-server migrate`, and once after each: it can be run again at any time, also beside
-- servers at work. It sets no password: use \password, or another way to prove who one is.
--
--   owner      owns all tables, and nobody comes in as it
--   migrator   for `ridethrough-server migrate`: acts as the owner
--   app        for the servers, with database.migrate = "never" or auto
--   readonly   for people who look: todos and their events
\set ON_ERROR_STOP on
\if :{?owner}
\else
    \set owner todos_owner
\endif
\if :{?migrator}
\else
    \set migrator todos_migrator
\endif
\if :{?app}
\else
    \set app todos_app
\endif
\if :{?readonly}
\else
    \set readonly todos_readonly
\endif

BEGIN;

SELECT format('CREATE ROLE %I %s', name, can)
FROM (VALUES (:'owner', 'NOLOGIN'), (:'migrator', 'LOGIN'), (:'app', 'LOGIN'), (:'readonly', 'LOGIN')) AS wanted (name, can)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

ALTER ROLE :"owner" NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOLOGIN;
ALTER ROLE :"migrator" NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE :"app" NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE :"readonly" NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;

-- What the migrator makes is the owner's.
GRANT :"owner" TO :"migrator";
SELECT format('ALTER ROLE %I IN DATABASE %I SET role = %L', :'migrator', current_database(), :'owner') \gexec
SELECT format('ALTER ROLE %I IN DATABASE %I SET default_transaction_read_only = on', :'readonly', current_database()) \gexec

-- Nobody else comes in, or makes anything here.
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO %I, %I, %I', current_database(), :'migrator', :'app', :'readonly') \gexec
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO :"owner";
GRANT USAGE ON SCHEMA public TO :"migrator", :"app", :"readonly";

-- Where a server has made its tables itself before there were these roles, they are handed over.
SELECT format('ALTER TABLE %s OWNER TO %I', oid::regclass, :'owner')
FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relowner <> to_regrole(:'owner')
    AND (relname IN ('todos', 'todo_events', 'todo_outbox', 'todo_outbox_wanted', 'ridethrough_writes',
            'ridethrough_journals', 'ridethrough_migrations')
        OR relname LIKE 'todo\_events\_%') \gexec
SELECT format('ALTER FUNCTION %s OWNER TO %I', oid::regprocedure, :'owner')
FROM pg_proc
WHERE pronamespace = 'public'::regnamespace AND proname ~ '^todo_(events|outbox)_' AND proowner <> to_regrole(:'owner') \gexec

-- All at once, so that a server at work never misses a right.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, :"app", :"readonly";
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM :"app", :"readonly";
SELECT format('GRANT %s ON %s TO %I', rights, to_regclass(name), bearer)
FROM (VALUES
    ('todos', 'SELECT, INSERT, UPDATE, DELETE', :'app'),
    ('todo_events', 'SELECT', :'app'),
    ('todo_outbox', 'SELECT, DELETE', :'app'),
    ('ridethrough_writes', 'SELECT, INSERT, UPDATE, DELETE', :'app'),
    ('ridethrough_journals', 'SELECT, INSERT, UPDATE', :'app'),
    ('ridethrough_migrations', 'SELECT', :'app'),
    ('todos', 'SELECT', :'readonly'),
    ('todo_events', 'SELECT', :'readonly')
) AS wanted (name, rights, bearer)
WHERE to_regclass(name) IS NOT NULL \gexec
-- They do with the owner's rights what the service may do to the owner's tables, and refuse what it may not.
SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', to_regprocedure(name), :'app')
FROM (VALUES
    ('todo_events_make_month(timestamptz)'),
    ('todo_events_drop_month(timestamptz)'),
    ('todo_events_forget(timestamptz, bigint)'),
    ('todo_events_oldest()'),
    ('todo_outbox_want(interval, bigint)'),
    ('todo_outbox_trim(bigint)')
) AS wanted (name)
WHERE to_regprocedure(name) IS NOT NULL \gexec

COMMIT;
