package member

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func testRaftLogger(level slog.Level) (*raftLogger, *bytes.Buffer, *time.Time) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}))
	return &raftLogger{
		pkg: "transport", target: func() *slog.Logger { return log },
		now: func() time.Time { return now }, seen: make(map[string]burst),
	}, &out, &now
}

func TestDeadPeerIsLoggedOnceAMinute(t *testing.T) {
	l, out, now := testRaftLogger(slog.LevelInfo)
	for range 100 {
		l.Errorf("failed to get a connection to %s", "gateway-7")
		*now = now.Add(time.Second)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[1], "repeated=59") || !strings.Contains(lines[0], "gateway-7") {
		t.Errorf("logged\n%s", out)
	}
}

func TestLibraryLevelsAreMapped(t *testing.T) {
	l, out, _ := testRaftLogger(slog.LevelDebug)
	l.Errorf("e")
	l.Warningf("w")
	l.Infof("i")
	l.Debugf("d")
	got := out.String()
	if strings.Count(got, "level=WARN") != 1 || strings.Count(got, "level=DEBUG") != 2 || strings.Contains(got, "detail=d") {
		t.Errorf("logged\n%s", got)
	}
}

func TestLibraryPanicsAreLoggedAndPanic(t *testing.T) {
	l, out, _ := testRaftLogger(slog.LevelInfo)
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "invalid commit 7") {
			t.Errorf("recovered %v", r)
		}
		if !strings.Contains(out.String(), "level=ERROR") || !strings.Contains(out.String(), "invalid commit 7") {
			t.Errorf("logged %s", out)
		}
	}()
	l.Panicf("invalid commit %d", 7)
}

func TestMessagesToldApartAreBounded(t *testing.T) {
	l, _, _ := testRaftLogger(slog.LevelInfo)
	for i := range 10 * messagesMax {
		l.Errorf(fmt.Sprint(i))
	}
	if len(l.seen) > messagesMax {
		t.Errorf("%d messages are remembered", len(l.seen))
	}
}
