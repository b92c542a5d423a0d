package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain makes this binary a small key-value server when it is asked to, so that servers are started, loaded and
// stopped for real.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "serve" {
		if err := serveSmall(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if is, _ := serve(os.Args[1:]); is { // it is killed
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// lateBytes is what the small server writes only when it is stopped.
const lateBytes = 1 << 20

func serveSmall(addr, dir string) error {
	if addr == "refuse" {
		return fmt.Errorf("there is no more room on the disk")
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	failed := make(chan error, 1)
	go func() { failed <- http.ListenAndServe(addr, store()) }()
	select {
	case err := <-failed:
		return err
	case <-stop:
	}
	f, err := os.Create(filepath.Join(dir, "late"))
	if err != nil {
		return err
	}
	if _, err := f.Write(make([]byte, lateBytes)); err != nil {
		return err
	}
	return f.Sync()
}

func small(t *testing.T) *system {
	t.Helper()
	bin, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &system{name: "small", bin: bin, ready: askOK("/readyz"), args: func(dir string, port, _ int) []string {
		return []string{"serve", fmt.Sprintf("127.0.0.1:%d", port), dir}
	}}
}

func quick(t *testing.T) options {
	t.Helper()
	o, err := parse([]string{"-warmup", "50ms", "-duration", "300ms", "-keys", "20"})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestWorkPutOffToTheEndIsCounted(t *testing.T) {
	v, err := small(t).start(t.Context(), t.TempDir(), watched{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.kill()
	if v.started <= 0 {
		t.Errorf("started in %v", v.started)
	}
	out, err := drive(t.Context(), quick(t), v, contender{name: "small", system: v.system, dial: dialREST},
		load{clients: 4, warmup: 50 * time.Millisecond, duration: 300 * time.Millisecond, do: put})
	if err != nil {
		t.Fatal(err)
	}
	if out.done == 0 || out.all < out.done || len(out.took) == 0 {
		t.Errorf("got %d in the window, %d in all, %d times", out.done, out.all, len(out.took))
	}
	if w := out.end.Sub(out.begin); w < 250*time.Millisecond || w > 5*time.Second {
		t.Errorf("a window of %v, want 300ms", w)
	}
	life, err := v.stop()
	if err != nil {
		t.Fatal(err)
	}
	values := out.whole(life)
	if got, least := values[vCharged], float64(lateBytes)/float64(out.all); got < least {
		t.Errorf("%.0f bytes per operation, want %.0f and more: what was written at the end counts", got, least)
	}
	if life.cpu < out.window.cpu {
		t.Errorf("CPU of the life %v, less than of the window %v", life.cpu, out.window.cpu)
	}
}

// Where a disk cannot be had, the report has to say so.
func TestDiskOfItsOwnIsToldToWriteWhatItsServerWrites(t *testing.T) {
	var text bytes.Buffer
	b := &bench{options: quick(t), scratch: t.TempDir(), report: newReport(&text, machine{}, nil)}
	s := small(t)
	c := contender{name: hfREST, system: s, dial: dialREST}
	if err := b.disks(t.Context()); err != nil {
		if err := b.wear(t.Context(), []contender{c}); err != nil || !strings.Contains(text.String(), "were not counted") {
			t.Errorf("no disk to be had (%v), and the report has %q", err, text.String())
		}
		return
	}
	v, dir, err := b.startEmpty(t.Context(), s, true)
	defer b.discard(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer v.kill()
	values, err := wearOf(t.Context(), b.options, v, c, load{clients: 2, duration: 200 * time.Millisecond, do: put})
	if err != nil {
		t.Fatal(err)
	}
	// Beside what the server wrote there is the journal, a few dozen blocks of it.
	if got, puts := values[vDisk]*values["puts"], values["puts"]; puts < 1 || got < lateBytes || got > lateBytes+512<<10 {
		t.Errorf("%.0f bytes, want the %d that the server wrote at its end, and a little", got, lateBytes)
	}
	if got := values[vDiskRunning] * values["puts"]; got > 256<<10 {
		t.Errorf("%.0f bytes while running, when the server wrote none", got)
	}
	v.kill()
	if left, err := os.ReadDir(filepath.Join(dir, "mnt")); err != nil || len(left) != 0 {
		t.Errorf("the disk is mounted for everybody: %v, %v", left, err)
	}
}

func TestFailedOperationEndsTheRun(t *testing.T) {
	v, err := small(t).start(t.Context(), t.TempDir(), watched{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.kill()
	_, err = drive(t.Context(), quick(t), v, contender{name: "small", system: v.system, dial: dialREST},
		load{clients: 4, duration: time.Minute, do: get(true)})
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v, want the 404 of a key that nobody put", err)
	}
}

func TestDeadServerEndsTheRun(t *testing.T) {
	v, err := small(t).start(t.Context(), t.TempDir(), watched{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.kill()
	time.AfterFunc(200*time.Millisecond, v.kill)
	if _, err := drive(t.Context(), quick(t), v, contender{name: "small", system: v.system, dial: dialREST},
		load{clients: 4, duration: time.Minute, do: put}); err == nil {
		t.Error("no error from a server that was killed")
	}
}

func TestServerThatDoesNotStartSaysWhy(t *testing.T) {
	s := small(t)
	s.args = func(string, int, int) []string { return []string{"serve", "refuse", ""} }
	_, err := s.start(t.Context(), t.TempDir(), watched{})
	if err == nil || !strings.Contains(err.Error(), "no more room") {
		t.Errorf("got %v, want what the server said", err)
	}
}

func TestFilledStoreHasEachKeyOnce(t *testing.T) {
	o, puts := quick(t), map[string]int{}
	o.keys = 1000
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		puts[r.URL.Path]++
		w.WriteHeader(http.StatusCreated)
	}))
	defer s.Close()
	v := &server{addr: strings.TrimPrefix(s.URL, "http://")}
	if err := fill(t.Context(), o, v, contender{dial: dialREST}); err != nil {
		t.Fatal(err)
	}
	if len(puts) != o.keys {
		t.Errorf("%d keys, want %d", len(puts), o.keys)
	}
	for k, n := range puts {
		if n != 1 {
			t.Errorf("%s was put %d times", k, n)
		}
	}
}

func TestSlowRunIsPaced(t *testing.T) {
	n := 0
	l := load{every: 50 * time.Millisecond, do: func(client, *generator) error { n++; return nil }}
	begin := time.Now()
	sum, err := l.repeat(t.Context(), nil, nil, begin, begin.Add(240*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	if n < 1 || n > 5 || sum.all != int64(n) {
		t.Errorf("%d operations, %d counted, want at most 5 in 240 ms at one each 50 ms", n, sum.all)
	}
}

func TestReportHasMedianSpreadAndVerdict(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out, machine{CPU: "abacus"}, nil)
	for round, v := range []float64{100, 130, 90} {
		r.add(cell{"put", "put", hfREST, 32}, round, map[string]float64{vRate: v})
	}
	for round, v := range []float64{50, 40, 45} {
		r.add(cell{"put", "put", etcdJSON, 32}, round, map[string]float64{vRate: v})
	}
	b := &bench{options: options{clients: []int{32}}, report: r}
	b.loadTable("PUT", "put", "put", []contender{{name: hfREST}, {name: etcdJSON}, {name: redisRESP}})
	r.claims("ratios", b.putClaims())
	text := out.String()
	for _, want := range []string{
		"| 32 | Holdfast REST | 100 | 40.00 % |",
		"| rate, REST over etcd JSON gateway, 32 clients | 2.00 | 2.00 to 3.25 | &ge; 4 / 2.5 | **missed** |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "Redis") {
		t.Errorf("a line for what was not measured:\n%s", text)
	}
}

func TestVerdicts(t *testing.T) {
	more, less := claim{target: 4, must: 2.5}, claim{target: 0.4, must: 0.6, less: true}
	for _, c := range []struct {
		claim claim
		v     float64
		want  string
	}{
		{more, 4, "target met"}, {more, 3, "must met"}, {more, 2.4, "**missed**"},
		{less, 0.4, "target met"}, {less, 0.5, "must met"}, {less, 0.7, "**missed**"}, {claim{}, 0.1, ""},
	} {
		if got := c.claim.verdict(c.v); got != c.want {
			t.Errorf("%v of %v: %q, want %q", c.v, c.claim, got, c.want)
		}
	}
}

func TestBadFlagsAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"-clients", "0"}, {"-clients", "1,x"}, {"-systems", "zookeeper"}, {"-rounds", "0"}, {"-value", "7"},
		{"-duration", "11m"}, {"-duration", "0s"}, {"-keys", "0"}, {"nosuch"}, {"put", "nosuch"}, {"-nosuch"}, {"-memory"}, {"-memory", "lossy", "put"},
	} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}

func TestNamedSuitesAreRun(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "put get rest trickle"}, {"all", "put get rest trickle"}, {"million put", "put million"}, {"all million", "put get rest trickle million"},
	} {
		o, err := parse(strings.Fields(c.args))
		if got := strings.Join(o.suites, " "); err != nil || got != c.want {
			t.Errorf("%q: %q, %v, want %q", c.args, got, err, c.want)
		}
	}
}
