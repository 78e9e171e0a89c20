"""Keys that are made up are made anew for each request: one that was used for another is refused with 422, and rightly."""

import re
import uuid

import schemathesis

VALID = re.compile(r"[!-~]{1,255}\Z")


@schemathesis.hook
def before_call(context, case, kwargs):
    """A key that breaks the rules stays as it is, to be refused."""
    headers = case.headers or {}
    for name in list(headers):
        value = headers[name]
        if name.lower() == "idempotency-key" and isinstance(value, str) and VALID.match(value):
            headers[name] = str(uuid.uuid4())
