package rest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"holdfast/kv"
)

// parseBatchLine reads a line: {"put":{...}} or {"delete":{...}} of one key, and "if_mod_revision" beside it, which is
// the mod revision that the key must have, 0 if it must not exist.
func (h *Handler) parseBatchLine(line []byte) (c kv.Command, key string, err error) {
	const members = "put, delete and if_mod_revision"
	base, err := newDecoder(line)
	if err != nil {
		return c, "", err
	}
	d := &opDecoder{decoder: base, limits: &h.opts}
	guard := int64(-1)
	err = d.object(func(name string) (err error) {
		switch name {
		case "put", "delete":
			if c.Ops != nil {
				return d.errorf("one line is one operation; put this one in a line of its own")
			}
			var op kv.Op
			if name == "put" {
				op, err = d.put(false)
			} else {
				op, err = d.delete(false)
			}
			c.Ops = []kv.Op{op}
		case "if_mod_revision":
			guard, err = d.number(0)
		default:
			err = d.errUnknown(members)
		}
		return err
	})
	switch {
	case err != nil:
	case c.Ops == nil:
		err = d.errorf("the operation is missing: one of put and delete")
	default:
		err = d.end()
	}
	if err != nil {
		return c, "", err
	}
	k := keyOf(c.Ops[0])
	if guard >= 0 {
		c.Guards = []kv.Guard{{Compare: kv.Compare{Key: k, Target: kv.TargetMod, Relation: kv.Equal, Num: guard}}}
	}
	return c, string(k), nil
}

// keyOf is the key of a put or of a delete of one key.
func keyOf(op kv.Op) []byte {
	switch op := op.(type) {
	case kv.Put:
		return op.Key
	case kv.Delete:
		return op.Key
	}
	return nil
}

// appendStatus appends what became of line n, of command c if there is one.
func appendStatus(b []byte, n int, c *kv.Command, result *kv.Result, err error) (status int, line []byte) {
	if err == nil && result.Queued == nil {
		if d, ok := c.Ops[0].(kv.Delete); ok && result.Ops[0].Count == 0 {
			err = errNoKey(d.Key)
		}
	}
	b = append(b, `{"line":`...)
	b = strconv.AppendInt(b, int64(n), 10)
	b = append(b, `,"status":`...)
	switch {
	case err != nil:
		p := problemOf(err)
		status = p.status
		b = strconv.AppendInt(b, int64(status), 10)
		b = p.appendJSON(append(b, `,"problem":`...))
	case result.Queued != nil:
		status = http.StatusAccepted
		b = append(b, `202,"op":`...)
		b = appendString(b, result.Queued.ID)
		if at := result.Queued.Expires; !at.IsZero() {
			b = append(b, `,"expires":"`...)
			b = at.UTC().AppendFormat(b, time.RFC3339)
			b = append(b, '"')
		}
	default:
		status = http.StatusOK
		if result.Ops[0].Created {
			status = http.StatusCreated
		}
		b = strconv.AppendInt(b, int64(status), 10)
		b = append(b, `,"revision":`...)
		b = strconv.AppendInt(b, result.Revision, 10)
	}
	return status, append(b, "}\n"...)
}

// appendEnd appends the last line of a batch of which n lines were read.
func appendEnd(b []byte, n int, err error) []byte {
	b = append(b, `{"end":true,"lines":`...)
	b = strconv.AppendInt(b, int64(n), 10)
	if err != nil {
		p := problemOf(err)
		b = p.appendJSON(append(b, `,"problem":`...))
	}
	return append(b, "}\n"...)
}

// endCode names how a batch ended, for the metric.
func endCode(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, errBatchUnread):
		return "unread"
	}
	return problemOf(err).code
}

// lineReader reads a body line by line. A line that is too long is passed over: the next one is found all the same.
type lineReader struct {
	body     io.Reader
	rc       *http.ResponseController
	limit    int           // longest line
	total    int64         // bytes that may still be read
	patience time.Duration // a line must have arrived within

	buf  *bufio.Reader
	long []byte // a line that did not fit the buffer
}

var (
	errLineLong   = errors.New("the line is too long")
	errBatchBytes = errors.New("the batch is too large")
)

// next returns the next line without its end and the space around it, io.EOF behind the last one. It is valid until the
// next call. What a body that was cut short ends with is not a line.
func (r *lineReader) next(stopping context.Context) ([]byte, error) {
	if r.buf == nil {
		r.buf = bufio.NewReaderSize(r.body, 32<<10)
	}
	if ready, _ := r.buf.Peek(r.buf.Buffered()); bytes.IndexByte(ready, '\n') < 0 {
		_ = r.rc.SetReadDeadline(time.Now().Add(r.patience)) // a recorder in a test has none
		if stopping.Err() != nil {                           // who stops has cut the deadline short, perhaps just before
			return nil, errStopping()
		}
	}
	r.long = r.long[:0]
	tooLong := false
	for {
		part, err := r.buf.ReadSlice('\n')
		if r.total -= int64(len(part)); r.total < 0 {
			return nil, errBatchBytes
		}
		switch size := len(r.long) + len(bytes.TrimSuffix(part, []byte("\n"))); {
		case tooLong || size > r.limit:
			tooLong, r.long = true, nil
		case err == nil && len(r.long) == 0:
			return bytes.TrimSpace(part), nil
		default:
			r.long = append(r.long, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case errors.Is(err, io.EOF) && len(r.long) == 0 && !tooLong:
			return nil, io.EOF
		case tooLong:
			return nil, errLineLong
		default:
			return bytes.TrimSpace(r.long), nil
		}
	}
}

// interrupt makes next return, now or when it is called.
func (r *lineReader) interrupt() { _ = r.rc.SetReadDeadline(time.Unix(1, 0)) }

// restPatience is how long net/http may read on in a body of which no more is wanted: to close a connection that data
// comes from would take the answers with it.
const restPatience = time.Second

// finish hands the body back to net/http.
func (r *lineReader) finish(whole bool) {
	deadline := time.Time{} // it reads to see whether the client leaves
	if !whole {
		deadline = time.Now().Add(restPatience)
	}
	_ = r.rc.SetReadDeadline(deadline)
}
