-- Whose a todo is. The nil id is everybody: what was stored before there were owners, and what programs store that know of
-- none.
ALTER TABLE todos ADD COLUMN owner uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';

-- What happened to todos: a line for each change, made by the database in the very statement that makes the change, so
-- that no program can forget it, also none of an older version.
CREATE TABLE todo_events (
    owner uuid NOT NULL,
    todo uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('created', 'changed', 'removed')),
    version bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
) PARTITION BY RANGE (at);

-- What happened to the todos of one owner in a span of time.
CREATE INDEX todo_events_of_owner ON todo_events (owner, at);

-- A net for what falls into no month: a write must never fail because nobody has made a partition.
CREATE TABLE todo_events_default PARTITION OF todo_events DEFAULT;

CREATE FUNCTION todo_events_note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO todo_events (owner, todo, kind, version)
    SELECT owner, id, TG_ARGV[0], version FROM touched;
    RETURN NULL;
END
$$;

CREATE TRIGGER todo_events_created AFTER INSERT ON todos REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION todo_events_note('created');
CREATE TRIGGER todo_events_changed AFTER UPDATE ON todos REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION todo_events_note('changed');
CREATE TRIGGER todo_events_removed AFTER DELETE ON todos REFERENCING OLD TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION todo_events_note('removed');

-- What follows looks after the events: each call is one short step, of one caller at a time (the advisory lock), which
-- waits 200 ms for the table and no longer, because every write waits behind it meanwhile.

-- Makes the partition of one month, takes into it what the net holds of that month, and answers whether there was anything
-- to make. The service may call it and not make tables itself, so only months near today are allowed.
CREATE FUNCTION todo_events_make_month(day timestamptz) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    first timestamptz := date_trunc('month', day, 'UTC');
    next timestamptz := ((first AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
    name text := 'todo_events_' || to_char(first AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    IF to_regclass(name) IS NOT NULL THEN
        RETURN false;
    END IF;
    IF first NOT BETWEEN now() - interval '2 months' AND now() + interval '6 months' THEN
        RAISE EXCEPTION 'that month is too far away' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT pg_try_advisory_xact_lock(5938387970321446003) THEN
        RETURN false;
    END IF;
    -- In the order in which an insertion locks them.
    LOCK TABLE ONLY todo_events IN SHARE UPDATE EXCLUSIVE MODE;
    LOCK TABLE todo_events_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE %I (LIKE todo_events INCLUDING ALL)', name);
    EXECUTE format(
        'WITH caught AS (DELETE FROM todo_events_default WHERE at >= %L AND at < %L RETURNING *) '
        'INSERT INTO %I SELECT * FROM caught', first, next, name);
    EXECUTE format('ALTER TABLE todo_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, first, next);
    RETURN true;
END
$$;

-- Drops the oldest partition, if all of it is from before that time, and answers whether there was one.
CREATE FUNCTION todo_events_drop_month(before timestamptz) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    oldest text;
BEGIN
    IF before > now() - interval '28 days' THEN
        RAISE EXCEPTION 'events are kept for 28 days at the least' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT pg_try_advisory_xact_lock(5938387970321446003) THEN
        RETURN false;
    END IF;
    SELECT month.relname INTO oldest
    FROM pg_inherits AS line JOIN pg_class AS month ON month.oid = line.inhrelid
    WHERE line.inhparent = 'todo_events'::regclass AND month.relname ~ '^todo_events_[0-9]{4}_[0-9]{2}$'
    ORDER BY month.relname LIMIT 1;
    IF oldest IS NULL OR
        (to_timestamp(right(oldest, 7), 'YYYY_MM')::timestamp + interval '1 month') AT TIME ZONE 'UTC' > before
    THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', oldest);
    RETURN true;
END
$$;

-- Removes from the net what is from before that time, some lines at once, and answers how many.
CREATE FUNCTION todo_events_forget(before timestamptz, lines bigint) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    gone bigint;
BEGIN
    IF before > now() - interval '28 days' THEN
        RAISE EXCEPTION 'events are kept for 28 days at the least' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT pg_try_advisory_xact_lock(5938387970321446003) THEN
        RETURN 0;
    END IF;
    DELETE FROM todo_events_default WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM todo_events_default WHERE at < before LIMIT lines));
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;

-- When about the oldest line was written. The first one of the oldest partition that has any says so without a search.
CREATE FUNCTION todo_events_oldest() RETURNS timestamptz LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    month text;
    oldest timestamptz;
BEGIN
    FOR month IN
        SELECT line.inhrelid::regclass::text FROM pg_inherits AS line JOIN pg_class AS part ON part.oid = line.inhrelid
        WHERE line.inhparent = 'todo_events'::regclass ORDER BY part.relname
    LOOP
        EXECUTE 'SELECT at FROM ' || month || ' LIMIT 1' INTO oldest;
        EXIT WHEN oldest IS NOT NULL;
    END LOOP;
    RETURN oldest;
END
$$;

-- They act with the rights of the tables' owner: so they mean what they meant here, whatever names their caller makes up,
-- and only who is given them may call them.
DO $$
DECLARE
    its text;
BEGIN
    FOREACH its IN ARRAY ARRAY['todo_events_note()', 'todo_events_make_month(timestamptz)',
        'todo_events_drop_month(timestamptz)', 'todo_events_forget(timestamptz, bigint)', 'todo_events_oldest()']
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', its, current_schema());
        EXECUTE format('ALTER FUNCTION %s SET timezone = ''UTC''', its);
        IF its <> 'todo_events_note()' THEN
            EXECUTE format('ALTER FUNCTION %s SET lock_timeout = ''200ms''', its);
        END IF;
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', its);
    END LOOP;
    FOR months IN 0..2 LOOP
        PERFORM todo_events_make_month(now() + make_interval(months => months));
    END LOOP;
END
$$;
