CREATE INDEX CONCURRENTLY todos_of_owner ON todos (owner, created_at DESC, id DESC)
