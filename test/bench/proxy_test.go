package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// started is a yardstick that runs until the test ends.
func started(t *testing.T, s *system, err error) *server {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.start(t.Context(), t.TempDir(), watched{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.kill)
	return v
}

func TestTheBareServerAnswersWithAValue(t *testing.T) {
	for _, labelled := range []bool{false, true} {
		s, err := bare(128, labelled)
		v := started(t, s, err)
		c, err := dialHTTP(t.Context(), v.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 2 {
			if n, err := (restClient{c}).Get([]byte("bench/1"), false); n != 128 || err != nil {
				t.Errorf("%d bytes, %v; want 128", n, err)
			}
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+v.addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		for _, l := range labels {
			if got := res.Header.Get(l.name); (got == l.value[0]) != labelled {
				t.Errorf("labelled %v: %s is %q", labelled, l.name, got)
			}
		}
	}
}

// Each yardstick does what it is measured by.
func TestYardsticksAnswer(t *testing.T) {
	calls := func() (*system, error) { return floor(128) }
	for name, tc := range map[string]struct {
		yard func() (*system, error)
		dial func(context.Context, string, int) (dialer, error)
		load load
	}{
		"puts over gRPC":        {calls, dialGRPC, load{do: put}},
		"ranges of one key":     {calls, dialGRPC, load{do: get(false)}},
		"ranges of many keys":   {calls, dialGRPC, load{do: listOf(listKeys)}},
		"queued writes, by 202": {journalFloor, dialQueued, load{do: put, every: 10 * time.Millisecond, due: true}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := tc.yard()
			v := started(t, s, err)
			tc.load.clients, tc.load.duration = 2, 200*time.Millisecond
			out, err := drive(t.Context(), quick(t), v, contender{name: name, system: s, dial: tc.dial}, tc.load)
			if err != nil || out.done == 0 {
				t.Fatalf("%d done, %v", out.done, err)
			}
		})
	}
}

func TestOnlyA202IsAQueuedWrite(t *testing.T) {
	status := http.StatusAccepted
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer s.Close()
	d, err := dialQueued(t.Context(), s.Listener.Addr().String(), 1)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Dial(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Put([]byte("k"), []byte("v")); err != nil {
		t.Error(err)
	}
	status = http.StatusOK
	if err := c.Put([]byte("k"), []byte("v")); err == nil || !strings.Contains(err.Error(), "200 instead of 202") {
		t.Errorf("a 200 gives %v", err)
	}
}

func TestAProxyIsSyncedOnceItMirrorsEverything(t *testing.T) {
	for _, tc := range []struct {
		body string
		want bool
	}{
		{`{"proxy":{"joined":true,"upstream":"a","synced":true,"uplink_lost":false,"mirrors":[{"prefix":"a"}]}}`, true},
		{`{"proxy":{"joined":true,"upstream":"a","synced":false,"uplink_lost":false}}`, true}, // nothing to mirror
		{`{"proxy":{"joined":true,"upstream":"a","synced":false,"uplink_lost":false,"mirrors":[{"prefix":"a"}]}}`, false},
		{`{"proxy":{"joined":true,"upstream":"a","synced":true,"uplink_lost":true,"mirrors":[{"prefix":"a"}]}}`, false},
		{`{"proxy":{"joined":true,"synced":true}}`, false},
		{`{"proxy":{"upstream":"a","synced":true}}`, false},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(tc.body)) }))
		if err := synced(t.Context(), s.Listener.Addr().String()); (err == nil) != tc.want {
			t.Errorf("%s: %v", tc.body, err)
		}
		s.Close()
	}
}

func TestWhatLinksCarriedIsSummed(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"links":[{"bytes_sent":1,"bytes_received":20},{"bytes_sent":300}]}`))
	}))
	defer s.Close()
	got, err := statusOf(t.Context(), s.Listener.Addr().String())
	if err != nil || got.carried() != 321 {
		t.Errorf("%d, %v; want 321", got.carried(), err)
	}
}

// What the floor of queued writes acknowledges is in its file, once each, whoever wrote it.
func TestTheJournalHasWhatItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer j.f.Close()
	const writers, each = 16, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := j.append(fmt.Appendf(nil, "<%d/%d>", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	for w := range writers {
		for i := range each {
			if n := bytes.Count(b, fmt.Appendf(nil, "<%d/%d>", w, i)); n != 1 {
				t.Errorf("write %d of %d is there %d times", i, w, n)
			}
		}
	}
}
