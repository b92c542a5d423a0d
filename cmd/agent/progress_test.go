package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestStepsSayForHowLongAndGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := &steps{now: make(chan string), over: make(chan struct{})}
		go s.run(&progress{out: &out}, "reading a.db")
		time.Sleep(2100 * time.Millisecond)
		s.next("building the state")
		time.Sleep(1100 * time.Millisecond)
		s.end()
		got := out.String()
		for _, want := range []string{"reading a.db: 0 s", "reading a.db: 2 s", "building the state: 0 s", "building the state: 1 s"} {
			if !strings.Contains(got, want) {
				t.Errorf("%q is not in %q", want, got)
			}
		}
		if strings.Contains(got, "\n") || !strings.HasSuffix(got, "\r\x1b[K") {
			t.Errorf("it leaves something: %q", got)
		}
	})
}

func TestStepsAreNotShownOffATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := (&program{stderr: &out}).steps("reading a.db")
		time.Sleep(time.Second)
		s.end()
		if got := out.String(); got != "" {
			t.Errorf("it says %q", got)
		}
	})
}
