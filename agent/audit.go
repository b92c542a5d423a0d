package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/kv"
)

// audit writes down who changed what, from where, and what came of it. Keys are named and values never. What
// administrators do is always written to the log; changes of data only where the configuration has audit.file.
//
// A request leaves a note in a bounded ring and goes on: it never waits for the disk. A note that finds the ring full is
// dropped and counted, and the next line that is written says how many were.
type audit struct {
	log   *slog.Logger
	data  bool         // changes of data too
	file  *rotatedFile // nil: the log
	notes chan note

	written atomic.Int64
	dropped atomic.Int64
	failed  atomic.Int64
}

// note is one line.
type note struct {
	Time    time.Time `json:"time"`
	From    string    `json:"from"`
	As      string    `json:"as,omitempty"` // user, device:ID, or name in the client's certificate
	Door    string    `json:"door"`         // clients or administration
	Do      string    `json:"do"`
	Keys    []string  `json:"keys,omitempty"` // quoted where they are no plain text; a range is from..end
	More    int       `json:"more_keys,omitempty"`
	Outcome string    `json:"outcome"`
	Dropped int64     `json:"dropped,omitempty"` // notes before this one that found no room

	admin bool
}

const (
	// auditRing is how many notes wait for the disk: some 2 MB at most.
	auditRing = 4096
	// auditKeys and auditKeyMax bound what one note says of keys.
	auditKeys   = 16
	auditKeyMax = 256
)

// auditToLog is the value of audit.file for the log itself.
const auditToLog = "log"

func newAudit(file string, maxBytes int64, log *slog.Logger, reg prometheus.Registerer) (*audit, error) {
	a := &audit{log: log, data: file != "", notes: make(chan note, auditRing)}
	if file != "" && file != auditToLog {
		var err error
		if a.file, err = openRotated(file, maxBytes); err != nil {
			return nil, refusef("audit.file: %w", err)
		}
	}
	reg.MustRegister(
		counter("holdfast_agent_audit_notes_total", "Lines of the audit log: written, dropped because they came faster than the disk takes them, or failed to be written.", prometheus.Labels{"outcome": "written"}, &a.written),
		counter("holdfast_agent_audit_notes_total", "Lines of the audit log: written, dropped because they came faster than the disk takes them, or failed to be written.", prometheus.Labels{"outcome": "dropped"}, &a.dropped),
		counter("holdfast_agent_audit_notes_total", "Lines of the audit log: written, dropped because they came faster than the disk takes them, or failed to be written.", prometheus.Labels{"outcome": "failed"}, &a.failed),
	)
	return a, nil
}

// put leaves a note.
func (a *audit) put(n note) {
	select {
	case a.notes <- n:
	default:
		a.dropped.Add(1)
	}
}

// Run writes until ctx ends, and then what is left.
func (a *audit) Run(ctx context.Context, ready func()) error {
	ready()
	var told int64 // of those dropped
	write := func(n note) {
		if d := a.dropped.Load(); d > told {
			n.Dropped, told = d-told, d
		}
		a.write(n)
	}
	for {
		select {
		case n := <-a.notes:
			write(n)
			continue
		default:
		}
		if a.file != nil {
			a.count(a.file.flush(), 0)
		}
		select {
		case n := <-a.notes:
			write(n)
		case <-ctx.Done():
			for len(a.notes) > 0 {
				write(<-a.notes)
			}
			if a.file == nil {
				return nil
			}
			return a.file.Close()
		}
	}
}

func (a *audit) write(n note) {
	if n.admin || a.file == nil {
		a.log.Info("audit", "from", n.From, "as", n.As, "door", n.Door, "do", n.Do, "keys", n.Keys, "outcome", n.Outcome, "dropped", n.Dropped)
	}
	if a.file == nil {
		a.written.Add(1)
		return
	}
	line, err := json.Marshal(n)
	if err == nil {
		err = a.file.write(append(line, '\n'))
	}
	a.count(err, 1)
}

func (a *audit) count(err error, n int64) {
	if err == nil {
		a.written.Add(n)
		return
	}
	if a.failed.Add(1) == 1 { // one line when it begins; the metric has the rest
		a.log.Error("the audit log cannot be written", "err", err)
	}
}

// names makes a place for the name of who asks, if that is going to be written down.
func (a *audit) names(ctx context.Context) context.Context {
	if a == nil || !a.data {
		return ctx
	}
	return api.WithName(ctx)
}

// noteOf is a note of what somebody does now.
func noteOf(c api.Caller, as, do string) note {
	n := note{Time: time.Now().UTC(), From: c.String(), As: as, Door: forClients.String(), Do: do}
	if c.Admin {
		n.Door = forAdmin.String()
	}
	if n.As == "" && c.Cert != nil {
		n.As = c.Cert.Subject.CommonName
	}
	return n
}

// command notes a change of data, once its outcome is known.
func (a *audit) command(ctx context.Context, c kv.Command, r kv.Result, err error) {
	if a == nil || !a.data {
		return
	}
	caller, ok := api.CallerFrom(ctx)
	if !ok {
		return // of another node, which has written it down
	}
	var did actions
	did.add(c.Ops)
	if len(did.verbs) == 0 {
		return // nothing of it changes anything
	}
	n := noteOf(caller, cmp.Or(api.NameIn(ctx), c.By.Principal), strings.Join(did.verbs, "+"))
	n.Keys, n.More = did.keys, did.more
	switch {
	case err != nil:
		n.Outcome = kv.CodeOf(err).String()
	case r.Queued != nil:
		n.Outcome = "queued"
	default:
		n.Outcome = "revision " + strconv.FormatInt(r.Revision, 10)
	}
	a.put(n)
}

// actions is what the operations of a command do, in words.
type actions struct {
	verbs []string
	keys  []string
	more  int
}

func (d *actions) add(ops []kv.Op) {
	for _, op := range ops {
		switch op := op.(type) {
		case kv.Put:
			d.verb("put", op.Key, nil)
		case kv.Delete:
			d.verb("delete", op.Key, op.End)
		case kv.Txn:
			d.add(op.Then)
			d.add(op.Else)
		case kv.Each:
			for _, c := range op.Commands {
				d.add(c.Ops)
			}
		case kv.LeaseGrant:
			d.verb("lease-grant", nil, nil)
		case kv.LeaseRevoke:
			d.verb("lease-revoke", nil, nil)
		case kv.Compact:
			d.verb("compact", nil, nil)
		case kv.SetAlarm:
			d.verb("alarm", nil, nil)
		case kv.SetRecord:
			d.verb("record", nil, nil)
		}
	}
}

func (d *actions) verb(v string, key, end []byte) {
	if !slices.Contains(d.verbs, v) {
		d.verbs = append(d.verbs, v)
	}
	switch {
	case key == nil:
	case len(d.keys) == auditKeys:
		d.more++
	case len(end) > 0:
		d.keys = append(d.keys, keyText(key)+".."+keyText(end))
	default:
		d.keys = append(d.keys, keyText(key))
	}
}

func keyText(key []byte) string {
	text := string(key)
	if len(text) > auditKeyMax {
		text = text[:auditKeyMax]
	}
	if quoted := strconv.Quote(text); quoted != `"`+text+`"` {
		return quoted
	}
	return text
}

// call is deed for a gRPC call, which anybody can make: one that was refused to a client is for audit.file alone.
func (a *audit) call(ctx context.Context, do, outcome string) {
	if caller, _ := api.CallerFrom(ctx); outcome != "OK" && !caller.Admin {
		a.refusal(ctx, do, outcome)
		return
	}
	a.deed(ctx, do, outcome)
}

// deed notes what an administrator has done.
func (a *audit) deed(ctx context.Context, do, outcome string) {
	if a == nil {
		return
	}
	caller, _ := api.CallerFrom(ctx)
	n := noteOf(caller, api.NameIn(ctx), do)
	n.Outcome, n.admin = outcome, true
	a.put(n)
}

// refusal notes what somebody at a listener for clients was not let do. Anybody can ask, so it is for audit.file alone.
func (a *audit) refusal(ctx context.Context, do, outcome string) {
	if a == nil || !a.data {
		return
	}
	caller, _ := api.CallerFrom(ctx)
	n := noteOf(caller, api.NameIn(ctx), do)
	n.Outcome = outcome
	a.put(n)
}

// watchAdmin is h with what it changes noted, but for the data itself, which the gate notes.
func (a *audit) watchAdmin(h http.Handler, d *door) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isDeed(r) {
			h.ServeHTTP(w, r)
			return
		}
		r = r.WithContext(api.WithName(r.Context()))
		s := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(s, r)
		note := a.deed
		if d.purpose != forAdmin && s.status >= http.StatusBadRequest {
			note = a.refusal
		}
		note(r.Context(), r.Method+" "+doText(r.URL.Path), strconv.Itoa(s.status))
	})
}

// doText is a path that anybody may have sent, as keyText.
func doText(path string) string { return keyText([]byte(path)) }

// isDeed tells what changes the node or the cluster from what reads, and from what changes data.
func isDeed(r *http.Request) bool {
	if r.Method == http.MethodGet && r.URL.Path != "/v1/snapshot" || r.Method == http.MethodHead || r.Method == http.MethodOptions {
		return false
	}
	rest, ours := strings.CutPrefix(r.URL.Path, "/v1/")
	if !ours {
		return false // etcd's own are noted by its server
	}
	first, _, _ := strings.Cut(rest, "/")
	return !slices.Contains([]string{"kv", "txn", "batch", "leases"}, first)
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (s *statusWriter) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// rotatedFile is appended to up to a size; then it is renamed to NAME.1, in the place of the one before.
type rotatedFile struct {
	path string
	max  int64
	f    *os.File
	size int64
	buf  []byte
}

// auditBuffer is how much is written at a time.
const auditBuffer = 64 << 10

func openRotated(path string, maxBytes int64) (*rotatedFile, error) {
	r := &rotatedFile{path: path, max: maxBytes}
	err := r.open()
	return r, err
}

func (r *rotatedFile) open() error {
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.f, r.size = f, info.Size()
	return nil
}

func (r *rotatedFile) write(line []byte) error {
	if r.size+int64(len(r.buf)+len(line)) > r.max && r.size+int64(len(r.buf)) > 0 {
		if err := r.rotate(); err != nil {
			return err
		}
	}
	r.buf = append(r.buf, line...)
	if len(r.buf) < auditBuffer {
		return nil
	}
	return r.flush()
}

// flush hands what was written to the system. What cannot be written is lost: it must not pile up.
func (r *rotatedFile) flush() error {
	if len(r.buf) == 0 {
		return nil
	}
	if r.f == nil {
		if err := r.open(); err != nil {
			r.buf = r.buf[:0]
			return err
		}
	}
	n, err := r.f.Write(r.buf)
	r.size += int64(n)
	r.buf = r.buf[:0]
	return err
}

func (r *rotatedFile) rotate() error {
	err := r.flush()
	if r.f != nil {
		err = errors.Join(err, r.f.Close())
		r.f = nil
	}
	if err := errors.Join(err, os.Rename(r.path, r.path+".1"), r.open()); err != nil {
		return fmt.Errorf("rotate %s: %w", r.path, err)
	}
	return nil
}

// Close implements io.Closer.
func (r *rotatedFile) Close() error {
	err := r.flush()
	if r.f == nil {
		return err
	}
	return errors.Join(err, r.f.Sync(), r.f.Close())
}
