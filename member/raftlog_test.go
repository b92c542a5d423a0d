package member

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func testRaftLogger(level slog.Level) (*raftLogger, *bytes.Buffer) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}))
	return newRaftLogger("transport", func() *slog.Logger { return log }), &out
}

func TestADeadPeerIsLoggedOnce(t *testing.T) {
	l, out := testRaftLogger(slog.LevelInfo)
	for i := range 100 {
		l.Errorf("failed to get a connection to %s", fmt.Sprintf("gateway-%d", i))
	}
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `msg=raft part=transport detail="failed to get a connection to gateway-0"`) {
		t.Errorf("logged\n%s", got)
	}
}

func TestLibraryLevelsAreMapped(t *testing.T) {
	l, out := testRaftLogger(slog.LevelDebug)
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
	l, out := testRaftLogger(slog.LevelInfo)
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
