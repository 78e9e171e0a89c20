-- The list of todos. An id is final from the moment a write is accepted, so the database makes none up.
CREATE TABLE todos (
    id uuid PRIMARY KEY,
    title text NOT NULL CHECK (char_length(title) BETWEEN 1 AND 500),
    done boolean NOT NULL DEFAULT false,
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    -- The replica whose write came last: replay tells its own earlier writes from those of others by it.
    written_by uuid
);

-- Pages are read newest first, and continue after the pair.
CREATE INDEX todos_newest ON todos (created_at DESC, id DESC);
