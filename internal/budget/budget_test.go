package budget

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// links carry what a test says, in the virtual time that it has.
type links struct {
	t       *testing.T
	path    string
	carried atomic.Uint64
	ahead   time.Duration // of the wall clock
	log     bytes.Buffer
}

func (l *links) open() *Account {
	l.t.Helper()
	a, err := Open(Options{Path: l.path, Limit: 1000, Carried: l.carried.Load, Log: slog.New(slog.NewTextHandler(&l.log, nil)),
		Now: func() time.Time { return time.Now().Add(l.ahead) }})
	if err != nil {
		l.t.Fatal(err)
	}
	return a
}

func (l *links) carry(a *Account, n uint64) {
	l.carried.Add(n)
	a.Look()
}

func (l *links) wants(a *Account, used int64, spent bool) {
	l.t.Helper()
	if s := a.State(); s.Used != used || s.Spent != spent {
		l.t.Errorf("%+v, want %d bytes used, and spent: %v", s, used, spent)
	}
	if is, _ := a.Spent(); is != spent {
		l.t.Errorf("spent: %v", is)
	}
}

func (l *links) says(text string, times int) {
	l.t.Helper()
	if n := strings.Count(l.log.String(), text); n != times {
		l.t.Errorf("%q was logged %d times, want %d:\n%s", text, n, times, l.log.String())
	}
}

func account(t *testing.T, f func(t *testing.T, l *links)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { f(t, &links{t: t, path: filepath.Join(dir, "budget.json")}) })
}

func TestABudgetIsOfADayAndSaysWhenItIsUsedUp(t *testing.T) {
	account(t, func(t *testing.T, l *links) {
		a := l.open()
		_, changed := a.Spent()
		l.carry(a, 799)
		l.says("most of the links' budget", 0)
		l.carry(a, 1)
		l.carry(a, 100)
		l.says("most of the links' budget", 1)
		l.wants(a, 900, false)
		select {
		case <-changed:
			t.Error("told of a change before there was one")
		default:
		}
		l.carry(a, 100)
		<-changed
		l.wants(a, 1000, true)
		l.carry(a, 500)
		l.wants(a, 1500, true)
		l.says("is used up", 1)
		_, changed = a.Spent()
		time.Sleep(time.Until(a.State().Until) - time.Millisecond)
		l.carry(a, 0)
		l.wants(a, 1500, true)
		time.Sleep(time.Millisecond)
		l.carry(a, 7)
		<-changed
		l.wants(a, 7, false)
		l.says("have a budget again", 1)
		l.carry(a, 900)
		l.says("most of the links' budget", 2)
	})
}

func TestAnAccountOutlivesARestartAndIsWrittenSeldom(t *testing.T) {
	account(t, func(t *testing.T, l *links) {
		a := l.open()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); a.Run(ctx) }()
		writes, last := 0, ""
		for range 6 * 60 {
			l.carried.Add(1)
			time.Sleep(time.Minute)
			synctest.Wait()
			b, err := os.ReadFile(l.path)
			if err != nil {
				t.Fatal(err)
			}
			if string(b) != last {
				writes, last = writes+1, string(b)
			}
		}
		if writes > 7 {
			t.Errorf("written %d times in six hours", writes)
		}
		killed := l.open()
		if s := killed.State(); s.Used < 300 || s.Used > 360 {
			t.Errorf("after a kill %d of 360 bytes are known, want an hour less at most", s.Used)
		}
		stop()
		<-ended
		a = l.open()
		l.wants(a, 360, false)
		l.carry(a, 640)
		l.wants(a, 1000, true)
		time.Sleep(25 * time.Hour)
		l.wants(l.open(), 0, false)
	})
}

func TestAClockThatIsSetDoesNotGiveTheDayBack(t *testing.T) {
	account(t, func(t *testing.T, l *links) {
		a := l.open()
		l.carry(a, 1000)
		l.ahead = -72 * time.Hour
		l.carry(a, 1)
		l.wants(a, 1001, true)
		l.ahead = 72 * time.Hour
		l.carry(a, 10)
		l.wants(a, 10, false)
		l.ahead = 0
		l.carry(a, 10)
		l.wants(a, 20, false)
		a.save(true)
		l.ahead = -72 * time.Hour
		l.wants(l.open(), 20, false)
	})
}

func TestAFileThatIsDamagedIsSaidAndBegunAnew(t *testing.T) {
	account(t, func(t *testing.T, l *links) {
		for _, text := range []string{"", "{", `{"day":"2000-01-01","used":-1}`} {
			if err := os.WriteFile(l.path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			a, err := Open(Options{Path: l.path, Limit: 1000, Carried: func() uint64 { return 0 }, Now: time.Now})
			if err == nil || a == nil {
				t.Fatalf("%q: %v, %v", text, a, err)
			}
			l.wants(a, 0, false)
			a.Look()
			a.save(true)
			l.open()
		}
	})
}
