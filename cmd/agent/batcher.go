package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"unicode/utf8"
)

// What one batch of an import carries at most. A line may be longer; it is a batch of its own then.
const (
	importLines = 1000
	importBytes = 1 << 20
	// importFaults is how many refused lines are told one by one.
	importFaults = 5
)

// lineOp is what is done to a key in a line of a batch, and of an export.
type lineOp struct {
	Key         *string `json:"key,omitempty"` // where it is text
	KeyBase64   []byte  `json:"key_base64,omitempty"`
	ValueBase64 *[]byte `json:"value_base64,omitempty"` // of a put; an empty one is a value
}

// batchLine is a line that POST /v1/batch takes.
type batchLine struct {
	Put    *lineOp `json:"put,omitempty"`
	Delete *lineOp `json:"delete,omitempty"`
}

func opOn(key []byte) *lineOp {
	if utf8.Valid(key) {
		text := string(key)
		return &lineOp{Key: &text}
	}
	return &lineOp{KeyBase64: key}
}

func putLine(key, value []byte) batchLine {
	op := opOn(key)
	if value == nil {
		value = []byte{}
	}
	op.ValueBase64 = &value
	return batchLine{Put: op}
}

// key is the key that a line is of, for messages.
func (l *batchLine) key() []byte {
	op := l.Put
	if op == nil {
		op = l.Delete
	}
	switch {
	case op == nil:
		return nil
	case op.Key != nil:
		return []byte(*op.Key)
	}
	return op.KeyBase64
}

// batcher writes lines to an agent, many at a time. What is refused does not keep the others from being written.
type batcher struct {
	client *client

	body bytes.Buffer
	keys [][]byte

	written   int64
	refused   int64
	faults    []error // of the first that were refused
	temporary bool    // all that were refused may go through later
}

// add takes a line. The agent has it once flush has returned.
func (b *batcher) add(ctx context.Context, l batchLine) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if b.body.Len() > 0 && b.body.Len()+len(text) > importBytes || len(b.keys) >= importLines {
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	b.body.Write(append(text, '\n'))
	b.keys = append(b.keys, l.key())
	return nil
}

// flush returns when the agent has answered each line.
func (b *batcher) flush(ctx context.Context) error {
	if len(b.keys) == 0 {
		return nil
	}
	c := call{method: http.MethodPost, path: "/v1/batch", query: url.Values{"write": {"sync"}}, header: http.Header{"Content-Type": {"application/x-ndjson"}}, body: b.body.Bytes()}
	resp, err := b.client.send(ctx, c)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	for n := 0; lines.Scan(); {
		var a struct {
			Status  int      `json:"status"`
			End     bool     `json:"end"`
			Problem *problem `json:"problem"`
		}
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return exitf(exitRefused, "%s answered a batch with what is no line of JSON: %w", b.client.target.name, err)
		}
		switch {
		case a.End && a.Problem != nil:
			return a.Problem.refusal()
		case a.End && n == len(b.keys):
			b.body.Reset()
			b.keys = b.keys[:0]
			return nil
		case a.End || n >= len(b.keys):
			return exitf(exitRefused, "%s answered another number of lines than were sent", b.client.target.name)
		}
		b.count(b.keys[n], a.Status, a.Problem)
		n++
	}
	return b.client.failed(c, errors.Join(lines.Err(), errors.New("the answer ended early")))
}

// count notes what became of a line. A key that was to be deleted and is not there is as it should be.
func (b *batcher) count(key []byte, status int, why *problem) {
	switch {
	case status == http.StatusNotFound:
	case status < 300:
		b.written++
	default:
		if why == nil {
			why = &problem{Title: fmt.Sprintf("status %d", status)}
		}
		b.temporary = why.Retryable && (b.refused == 0 || b.temporary)
		if b.refused++; b.refused <= importFaults {
			b.faults = append(b.faults, fmt.Errorf("key %s: %w", keyText(key), why.refusal()))
		}
	}
}

// outcome is an error if any line was refused.
func (b *batcher) outcome() error {
	if b.refused == 0 {
		return nil
	}
	code := exitRefused
	if b.temporary {
		code = exitTemporary
	}
	return exitf(code, "%d keys were not written, the others were: %w", b.refused, errors.Join(b.faults...))
}
