#!/bin/sh
# A tour of the HTTP API. Usage: tour.sh [http://HOST:PORT]
set -eu
url=${1:-http://127.0.0.1:2379}
key=$url/v1/kv/examples/curl/door

say() { printf '\n# %s\n' "$*"; }

say 'write: 201 for a new key, 200 for one that was there, and its revision'
curl -sS --fail-with-body -X PUT --data-binary open "$key"

say 'read: the value as it is; ETag is the revision of its last change'
curl -sS --fail-with-body -D - "$key"

say 'write only if nobody else did meanwhile'
etag=$(curl -sS -o /dev/null -D - "$key" | tr -d '\r' | sed -n 's/^[Ee][Tt]ag: //p')
curl -sS --fail-with-body -X PUT -H "If-Match: $etag" --data-binary closed "$key"

say 'the same again is refused with 412: the key has moved on'
code=$(curl -sS -o /dev/null -w '%{http_code}' -X PUT -H "If-Match: $etag" --data-binary open "$key")
echo "$code"
[ "$code" = 412 ]

say 'send it twice under one Idempotency-Key: it applies once'
once=examples-$$-$(date +%s)
first=$(curl -sS --fail-with-body -X PUT -H "Idempotency-Key: $once" --data-binary ajar "$key")
again=$(curl -sS --fail-with-body -X PUT -H "Idempotency-Key: $once" --data-binary ajar "$key")
echo "$first $again"
[ "$first" = "$again" ]

say 'list a prefix'
curl -sS --fail-with-body "$url/v1/kv/examples/curl/?prefix"

say 'wait for the next change, a minute at most, without a stream'
revision=$(curl -sS -o /dev/null -D - "$key" | tr -d '\r' | sed -n 's/^[Hh]oldfast-[Rr]evision: //p')
curl -sS --fail-with-body "$key?index=$revision&wait=1m" &
waiter=$!
curl -sS --fail-with-body -o /dev/null -X PUT --data-binary shut "$key"
wait "$waiter"

say 'delete'
curl -sS --fail-with-body -X DELETE "$key"
