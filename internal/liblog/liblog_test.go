package liblog

import (
	"bytes"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func voice(level slog.Level) (*Voice, *bytes.Buffer) {
	var out bytes.Buffer
	to := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}))
	return New(func() *slog.Logger { return to }, "library", "part", "transport"), &out
}

func TestOneThingIsSaidEverMoreRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, out := voice(slog.LevelInfo)
		say := func(n int) int {
			out.Reset()
			for i := range n {
				v.Say(slog.LevelWarn, "no connection to %s", func() string { return fmt.Sprintf("no connection to gateway-%d", i) })
				time.Sleep(time.Second)
			}
			return strings.Count(out.String(), "\n")
		}
		if n := say(100); n != 2 {
			t.Errorf("%d lines in the first 100 s, want 2", n)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if !strings.Contains(lines[0], `msg=library part=transport detail="no connection to gateway-0"`) || !strings.Contains(lines[1], "repeated=59") {
			t.Errorf("logged\n%s", out)
		}
		if n := say(24*60*60 - 100); n < 24 || n > 29 {
			t.Errorf("%d lines in a day of it", n)
		}
		time.Sleep(quiet)
		if n := say(100); n != 2 {
			t.Errorf("%d lines when it begins anew, want 2", n)
		}
	})
}

func TestWhatNobodyWantsToSeeIsNotMade(t *testing.T) {
	v, out := voice(slog.LevelInfo)
	v.Say(slog.LevelDebug, "x", func() string { t.Error("it was made"); return "" })
	if out.Len() > 0 {
		t.Errorf("logged %s", out)
	}
	v, out = voice(slog.LevelDebug)
	for range 3 {
		v.Say(slog.LevelDebug, "x", func() string { return "all of it" })
	}
	if n := strings.Count(out.String(), "all of it"); n != 3 {
		t.Errorf("%d of 3 records for somebody who looks for a fault", n)
	}
}

func TestThingsToldApartAreBounded(t *testing.T) {
	v, _ := voice(slog.LevelInfo)
	for i := range 10 * messagesMax {
		v.Say(slog.LevelWarn, fmt.Sprint(i), func() string { return "" })
	}
	if len(v.seen) > messagesMax {
		t.Errorf("%d are remembered", len(v.seen))
	}
}

// What a library writes with package log is one record, however many lines it has.
func TestLinesOfPackageLog(t *testing.T) {
	v, out := voice(slog.LevelInfo)
	l := log.New(v.Lines(slog.LevelWarn), "", 0)
	for i := range 5 {
		l.Printf("failed to raise the buffer: wanted: %d kiB, got %d kiB.\nSee elsewhere", 7168, 416+i)
	}
	l.Print("another thing")
	text := out.String()
	if strings.Count(text, "\n") != 2 || strings.Count(text, "level=WARN msg=library part=transport") != 2 || !strings.Contains(text, `got 416 kiB.\nSee elsewhere`) {
		t.Errorf("logged\n%s", text)
	}
}
