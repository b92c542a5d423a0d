package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"holdfast/kv"
)

// testMember is a member that runs, and its end.
type testMember struct {
	*Member
	t    testing.TB
	stop context.CancelFunc
	done chan error
}

// start opens a member on dir with the given changes to its settings, and runs it.
func start(t testing.TB, dir string, change ...func(*Config)) *testMember {
	t.Helper()
	cfg := Config{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, c := range change {
		c(&cfg)
	}
	m, err := Open(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // it ends in a cleanup, after t.Context
	tm := &testMember{Member: m, t: t, stop: cancel, done: make(chan error, 1)}
	go func() { tm.done <- m.Run(ctx) }()
	t.Cleanup(tm.close)
	select {
	case <-m.Ready():
	case err := <-tm.done:
		tm.done <- err
		t.Fatalf("run ended before it was ready: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("not ready after 20 s")
	}
	tm.awaitEntry()
	return tm
}

// awaitEntry waits for the last that a member writes by itself after a start: its own entry in the list of members.
func (m *testMember) awaitEntry() {
	m.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		r, changed := m.roster.get()
		if s := r.Seat(m.id.Replica); r.version != 0 && s != nil && m.entryTrue(*s) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			m.t.Fatal("the member is not in its list of members after 20 s")
		}
	}
}

// close ends the member and fails the test if it did not end well. It may be called more than once.
func (m *testMember) close() {
	m.t.Helper()
	m.stop()
	select {
	case err, ok := <-m.done:
		if ok {
			close(m.done)
			if err != nil {
				m.t.Errorf("run: %v", err)
			}
		}
	case <-time.After(30 * time.Second):
		m.t.Error("run did not end within 30 s")
	}
}

func (m *testMember) put(key, value string) int64 {
	m.t.Helper()
	res, err := m.Do(context.Background(), put(key, value))
	if err != nil {
		m.t.Fatalf("put %s: %v", key, err)
	}
	return res.Revision
}

func (m *testMember) get(key string) (string, bool) {
	m.t.Helper()
	p, err := m.Read(context.Background(), get(key))
	if err != nil {
		m.t.Fatalf("get %s: %v", key, err)
	}
	if len(p.Ops[0].KVs) == 0 {
		return "", false
	}
	return string(p.Ops[0].KVs[0].Value), true
}

func put(key, value string) kv.Command {
	return kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(value)}}}
}

func get(key string) kv.Query { return kv.Query{Ops: []kv.Op{kv.Range{Key: []byte(key)}}} }

func TestMemberStoresAndReads(t *testing.T) {
	m := start(t, t.TempDir())
	rev := m.put("site/42/temp", "21.5")
	if rev != 2 {
		t.Errorf("first put at revision %d, want 2", rev)
	}
	if got, ok := m.get("site/42/temp"); !ok || got != "21.5" {
		t.Errorf("got %q, %t, want 21.5", got, ok)
	}
	if _, ok := m.get("site/43/temp"); ok {
		t.Error("a key that was never put is there")
	}
	res, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Delete{Key: []byte("site/42/temp"), PrevKV: true}}})
	if err != nil || res.Ops[0].Count != 1 || string(res.Ops[0].KVs[0].Value) != "21.5" {
		t.Errorf("delete: %+v, %v", res, err)
	}
	if res.Member != 1 || res.Term == 0 || res.Epoch.IsZero() || res.Revision != 3 {
		t.Errorf("header %+v: want member 1, a term, an epoch and revision 3", res.Header)
	}
	if _, ok := m.get("site/42/temp"); ok {
		t.Error("a deleted key is there")
	}
}

func TestLinearizableReadSeesEveryWriteAcknowledgedBefore(t *testing.T) {
	m := start(t, t.TempDir())
	for i := range 200 {
		want := fmt.Sprint(i)
		m.put("k", want)
		if got, _ := m.get("k"); got != want {
			t.Fatalf("read %q after %q was acknowledged", got, want)
		}
	}
}

func TestRestartKeepsWhatWasStored(t *testing.T) {
	dir := t.TempDir()
	m := start(t, dir)
	for i := range 50 {
		m.put(fmt.Sprintf("k%02d", i), fmt.Sprint(i))
	}
	epoch, rev := m.Header().Epoch, m.Header().Revision
	m.close()
	m = start(t, dir)
	for i := range 50 {
		if got, _ := m.get(fmt.Sprintf("k%02d", i)); got != fmt.Sprint(i) {
			t.Errorf("k%02d is %q, want %d", i, got, i)
		}
	}
	if h := m.Header(); h.Epoch != epoch || h.Revision != rev {
		t.Errorf("epoch %s revision %d after a restart, want %s and %d", h.Epoch, h.Revision, epoch, rev)
	}
}

func TestStoppedMemberRefusesAndSaysSo(t *testing.T) {
	m := start(t, t.TempDir())
	m.close()
	if _, err := m.Do(t.Context(), put("k", "v")); kv.CodeOf(err) != kv.Stopping {
		t.Errorf("write: %v, want stopping", err)
	}
	if _, err := m.Read(t.Context(), get("k")); kv.CodeOf(err) != kv.Stopping {
		t.Errorf("read: %v, want stopping", err)
	}
	if err := m.Run(t.Context()); err == nil {
		t.Error("a second run succeeded")
	}
}

func TestOpenRefusesADirInUse(t *testing.T) {
	dir := t.TempDir()
	start(t, dir)
	m, err := Open(Config{Dir: dir})
	if err == nil {
		m.Close()
		t.Fatal("a second member opened the dir")
	}
	if kv.CodeOf(err) != kv.Busy {
		t.Errorf("%v (code %s), want busy", err, kv.CodeOf(err))
	}
}

var errTest = errors.New("test")
