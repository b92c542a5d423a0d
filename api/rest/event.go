package rest

import (
	"strconv"
	"strings"

	"holdfast/kv"
)

// position is a place in the stream of one watch, the id of its events: <epoch>:<revision>:<n>, n being how many events
// of that revision were still to come. A watch that goes on from it gets exactly those, then the next revision.
type position struct {
	epoch    string
	revision int64
	left     int
}

func (p position) append(b []byte) []byte {
	b = append(b, p.epoch...)
	b = append(b, ':')
	b = strconv.AppendInt(b, p.revision, 10)
	b = append(b, ':')
	return strconv.AppendInt(b, int64(p.left), 10)
}

func parsePosition(id string) (position, error) {
	bad := kv.Errorf(kv.Invalid, "Last-Event-ID %q is not the id of an event of a watch", id)
	rest, left, ok1 := cutLast(id, ':')
	epoch, revision, ok2 := cutLast(rest, ':')
	n, err1 := strconv.ParseInt(left, 10, 32)
	rev, err2 := strconv.ParseInt(revision, 10, 64)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || n < 0 || rev < 0 || rev > 1<<62 || epoch == "" {
		return position{}, bad
	}
	return position{epoch: epoch, revision: rev, left: int(n)}, nil
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// from is the first revision to ask for when a watch goes on from p.
func (p position) from() int64 {
	if p.left > 0 {
		return p.revision
	}
	return p.revision + 1
}

// message is one event of a watch as its client sees it: a JSON object with a type, alone on a line (NDJSON) or as the
// data of an event of that name (SSE). Those that move the client's place have an id and a revision. The types:
//
//	created        the watch runs; the id is where it starts behind
//	put            a key as lists show it
//	delete         key, key_base64 and mod_revision
//	progress       nothing has happened up to the id; over NDJSON the sign of life, too
//	resync         what the client knows is void; every key follows as a put without id, then synced
//	synced         the client knows what is there; what a resync has not listed is gone
//	stale          the link above this node is lost, what follows may be late
//	catching-up    it is back, what was missed follows
//	compacted      with ?on_gap=error: history is lost, oldest_revision is what is left of it. The last message
//	slow-consumer  the client did not read in time. The last message
//	error          the watch failed, problem says why. The last message
//	end            the server stops. The last message: go on from the last id
type message struct {
	kind string    // type
	at   *position // id, nil for none
	body func(b []byte) []byte
}

func (m *message) appendNDJSON(b []byte) []byte {
	b = m.appendObject(b)
	return append(b, '\n')
}

func (m *message) appendSSE(b []byte) []byte {
	if m.at != nil {
		b = append(b, "id: "...)
		b = m.at.append(b)
		b = append(b, '\n')
	}
	b = append(b, "event: "...)
	b = append(b, m.kind...)
	b = append(b, "\ndata: "...)
	b = m.appendObject(b) // JSON as it is written here has no line break
	return append(b, "\n\n"...)
}

func (m *message) appendObject(b []byte) []byte {
	b = append(b, `{"type":"`...)
	b = append(b, m.kind...)
	b = append(b, '"')
	if m.at != nil {
		b = append(b, `,"id":"`...)
		b = m.at.append(b)
		b = append(b, `","revision":`...)
		b = strconv.AppendInt(b, m.at.revision, 10)
	}
	if m.body != nil {
		b = append(b, ',')
		b = m.body(b)
	}
	return append(b, '}')
}

func eventMessage(e *kv.Event, at *position) message {
	if e.Delete {
		return message{kind: "delete", at: at, body: func(b []byte) []byte {
			b = appendKey(b, e.KV.Key)
			b = append(b, `,"mod_revision":`...)
			return strconv.AppendInt(b, e.KV.ModRevision, 10)
		}}
	}
	return message{kind: "put", at: at, body: func(b []byte) []byte { return appendKV(b, &e.KV, false) }}
}
