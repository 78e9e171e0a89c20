-- What happened to todos and was not yet told to a broker: a line beside each event, in the same transaction, for as long
-- as somebody wants to publish them. Whoever has published one removes it.
CREATE TABLE todo_outbox (
    -- The events of one todo in the order in which they happened: who changes a todo holds its row from before the number is
    -- drawn until the commit.
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- By which a broker knows an event again. It is made up here and not counted: after a failover that took something back
    -- the same numbers are drawn once more, for other events.
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner uuid NOT NULL,
    todo uuid NOT NULL,
    kind text NOT NULL,
    version bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
-- Most of what was ever in it is dead, so it is looked after by number and not by share.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Until when somebody wants them, and how many may wait. Without a line nobody ever did.
CREATE TABLE todo_outbox_wanted (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    until timestamptz NOT NULL,
    lines_max bigint NOT NULL CHECK (lines_max > 0)
);

CREATE OR REPLACE FUNCTION todo_events_note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO todo_events (owner, todo, kind, version)
    SELECT owner, id, TG_ARGV[0], version FROM touched;
    IF EXISTS (SELECT FROM todo_outbox_wanted WHERE until > now()) THEN
        INSERT INTO todo_outbox (owner, todo, kind, version)
        SELECT owner, id, TG_ARGV[0], version FROM touched;
    END IF;
    RETURN NULL;
END
$$;

-- From now on events are wanted, for so long after this call, and so many of them.
CREATE FUNCTION todo_outbox_want(how_long interval, most bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF how_long NOT BETWEEN interval '1 second' AND interval '400 days' THEN
        RAISE EXCEPTION 'events are wanted for 400 days at the most' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO todo_outbox_wanted (until, lines_max) VALUES (now() + how_long, most)
    ON CONFLICT (one) DO UPDATE SET until = EXCLUDED.until, lines_max = EXCLUDED.lines_max;
END
$$;

-- Removes the oldest lines beyond the number that may wait, all of them where nobody wants any; `lines` at the most, and
-- answers how many. Not while another session publishes, which does it itself.
CREATE FUNCTION todo_outbox_trim(lines bigint) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    most bigint;
    last bigint;
    gone bigint;
BEGIN
    SELECT CASE WHEN until > now() THEN lines_max ELSE 0 END INTO most FROM todo_outbox_wanted;
    most := coalesce(most, 0);
    -- Numbers are left out, so this is never less than there are.
    IF (SELECT coalesce(max(place) - min(place) + 1, 0) <= most FROM todo_outbox) THEN
        RETURN 0;
    END IF;
    IF NOT pg_try_advisory_xact_lock(5938387970321446004) THEN
        RETURN 0;
    END IF;
    SELECT place INTO last FROM todo_outbox ORDER BY place DESC OFFSET most LIMIT 1;
    DELETE FROM todo_outbox WHERE place = ANY (ARRAY(
        SELECT place FROM todo_outbox WHERE place <= last ORDER BY place LIMIT lines));
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;

DO $$
DECLARE
    its text;
BEGIN
    FOREACH its IN ARRAY ARRAY['todo_events_note()', 'todo_outbox_want(interval, bigint)', 'todo_outbox_trim(bigint)'] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', its, current_schema());
        EXECUTE format('ALTER FUNCTION %s SET timezone = ''UTC''', its);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', its);
    END LOOP;
END
$$;
