package journald

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// journal is the other end: it reads records as systemd-journald does.
type journal struct{ conn *net.UnixConn }

func newJournal(t *testing.T) (*journal, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "j") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &journal{conn}, path
}

func (j *journal) next(t *testing.T) map[string]string {
	t.Helper()
	if err := j.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	n, err := j.conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for rest := buf[:n]; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		if name, value, ok := bytes.Cut(line, []byte("=")); ok {
			fields[string(name)], rest = string(value), after
			continue
		}
		size := binary.LittleEndian.Uint64(after)
		fields[string(line)] = string(after[8 : 8+size])
		rest = after[8+size+1:]
	}
	return fields
}

func TestRecordsArriveWithTheirFields(t *testing.T) {
	j, path := newJournal(t)
	h, err := New(path, slog.LevelInfo, slog.DiscardHandler)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(h).With("part", "proxy").WithGroup("link")
	log.Warn("uplink lost", "upstream", "10.0.0.1:2380", "err", "two\nlines", slog.Group("sent", "bytes", 7))
	log.Debug("not of this level")
	got := j.next(t)
	for name, want := range map[string]string{
		"PRIORITY": "4", "HOLDFAST_EVENT": "uplink lost", "HOLDFAST_PART": "proxy", "HOLDFAST_LINK_UPSTREAM": "10.0.0.1:2380",
		"HOLDFAST_LINK_ERR": "two\nlines", "HOLDFAST_LINK_SENT_BYTES": "7", "SYSLOG_IDENTIFIER": "holdfast",
		"MESSAGE": `uplink lost part=proxy link.upstream=10.0.0.1:2380 link.err="two\nlines" link.sent.bytes=7`,
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}

func TestWhatTheJournalDoesNotTakeIsNotLost(t *testing.T) {
	j, path := newJournal(t)
	var text bytes.Buffer
	h, err := New(path, slog.LevelInfo, slog.NewTextHandler(&text, nil))
	if err != nil {
		t.Fatal(err)
	}
	slog.New(h).Info("long", "value", strings.Repeat("x", recordMax))
	if !strings.Contains(text.String(), "long") {
		t.Error("a record that is too long is in neither")
	}
	if err := j.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	slog.New(h).Info("gone")
	if !strings.Contains(text.String(), "gone") {
		t.Error("a record for a journal that is gone is in neither")
	}
	if _, err := New(path+"x", slog.LevelInfo, h); err == nil {
		t.Error("there is no such socket")
	}
}

// A loop that logs for an hour leaves some hundred records, and says how many it left out.
func TestRepeatsAreCountedAndLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		log := slog.New(Thin(slog.NewTextHandler(&text, nil)))
		for range 3600 {
			log.Info("again", "n", 1)
			time.Sleep(time.Second)
		}
		log.With("x", 1).Info("other")
		if got := strings.Count(text.String(), "msg=again"); got != 60*burst {
			t.Errorf("%d records passed, want %d", got, 60*burst)
		}
		if got := strings.Count(text.String(), "event=again records=50"); got != 60 {
			t.Errorf("%d sums in\n%.600s", got, text.String())
		}
		if strings.Count(text.String(), "msg=other") != 1 {
			t.Error("another event is held back")
		}
	})
}

func TestManyEventsAreBounded(t *testing.T) {
	tally := &tally{events: map[event]*count{}}
	now := time.Now()
	for i := range 10 * eventsMax {
		if passes, _ := tally.note(event{message: string(rune(i + 1))}, now); !passes {
			t.Fatalf("event %d is held back at its first", i)
		}
	}
	if len(tally.events) > eventsMax {
		t.Errorf("%d events are remembered", len(tally.events))
	}
}
