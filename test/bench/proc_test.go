package main

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"
)

func TestStatIsReadWhateverTheName(t *testing.T) {
	got, err := parseStat([]byte("42 (a) S (b) R 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 1"))
	if err != nil || got != 1750*time.Millisecond {
		t.Errorf("got %v, %v, want 1.75s", got, err)
	}
	for _, bad := range []string{"", "42", "42 (a) R 1 2", "42 (a) R 1 2 3 4 5 6 7 8 9 10 x 25"} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: %v, want an error", bad, got)
		}
	}
}

func TestCountersGrowWithWork(t *testing.T) {
	before, err := readCounters(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
		_ = quantile([]int{1}, 0.5)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	after, err := readCounters(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if used := after.minus(before); used.cpu == 0 {
		t.Error("100 ms of work cost no CPU")
	} else if fs, err := filesystem(filepath.Dir(f.Name())); err == nil && used.wrote < 1<<20 {
		t.Errorf("1 MiB on %s cost %d bytes", fs, used.wrote)
	}
}

func TestMemoryOfThisProcess(t *testing.T) {
	m, err := readMemory(os.Getpid())
	if err != nil || m.rss < 1<<20 || m.anon <= 0 || m.anon > m.rss || m.threads < 1 {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestDirectoryIsWeighedByItsBlocks(t *testing.T) {
	dir := t.TempDir()
	sparse := filepath.Join(dir, "sparse")
	if err := os.WriteFile(sparse, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse, 1<<30); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "full"), slices.Repeat([]byte{1}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := allocated(dir); err != nil || got < 1<<20 || got > 2<<20 {
		t.Errorf("%d bytes, %v, want about 1 MiB: a hole takes no room", got, err)
	}
}

func TestMetricIsFoundByItsWholeName(t *testing.T) {
	page := []byte("# HELP go_goroutines n\ngo_goroutines_max 99\ngo_goroutines 17\nbig 1.5e+06\n")
	if v, ok := metric(page, "go_goroutines"); !ok || v != 17 {
		t.Errorf("got %v, %v, want 17", v, ok)
	}
	if v, ok := metric(page, "big"); !ok || v != 1.5e6 {
		t.Errorf("got %v, %v, want 1.5e6", v, ok)
	}
	if v, ok := metric(page, "missing"); ok {
		t.Errorf("got %v for a series that is not there", v)
	}
}

func TestSyncCallsInTheWindowAreCountedOnce(t *testing.T) {
	trace := `101 1000.000001 fdatasync(7) = 0
101 1001.000001 fdatasync(7) = 0
102 1001.500000 fdatasync(8 <unfinished ...>
101 1001.600000 fsync(7) = 0
102 1001.700000 <... fdatasync resumed>) = 0
103 1001.800000 fdatasyncs(8) = 0
103 1001.900000 +++ exited with 0 +++
101 1002.000000 fdatasync(7) = 0
`
	if n := countCalls(trace, time.Unix(1001, 0), time.Unix(1002, 0)); n != 3 {
		t.Errorf("%d calls, want 3", n)
	}
}

func TestFiguresAreMediansWithTheirRange(t *testing.T) {
	if f := figureOf([]float64{3, 1, 2}); f != (figure{median: 2, low: 1, high: 3, n: 3}) || f.spread() != 1 {
		t.Errorf("got %+v, spread %v", f, f.spread())
	}
	if f := figureOf([]float64{4, 1, 2, 3}); f.median != 2.5 {
		t.Errorf("got %+v", f)
	}
	if f := figureOf(nil); f.n != 0 || f.spread() != 0 {
		t.Errorf("got %+v", f)
	}
	if f := ratioOf([]float64{10, 20, 30}, []float64{5, 0, 10}); f != (figure{median: 2.5, low: 2, high: 3, n: 2}) {
		t.Errorf("got %+v: a round without a denominator is no ratio", f)
	}
	sorted := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	for q, want := range map[float64]int{0: 1, 0.5: 6, 0.99: 10, 1: 10} {
		if got := quantile(sorted, q); got != want {
			t.Errorf("quantile %v: %d, want %d", q, got, want)
		}
	}
}

func TestSectorsWrittenAreTheSeventhField(t *testing.T) {
	if n, err := parseDiskStat("     475   140   18609  316   901  185  1912   167 0 101 516\n"); err != nil || n != 1912*512 {
		t.Errorf("got %d, %v, want %d", n, err, 1912*512)
	}
	for _, bad := range []string{"", "1 2 3", "1 2 3 4 5 6 x 8"} {
		if n, err := parseDiskStat(bad); err == nil {
			t.Errorf("%q: %d, want an error", bad, n)
		}
	}
}

func TestMachineIsBusyWhenItIsNeitherIdleNorWaiting(t *testing.T) {
	if got, err := parseMachineStat("cpu  1 2 4 100 200 8 16 32 64 128\ncpu0 1\n"); err != nil || got != 63*tick {
		t.Errorf("got %v, %v, want %v", got, err, 63*tick)
	}
	for _, bad := range []string{"", "cpu 1 2", "intr 1 2 3 4 5 6 7 8 9", "cpu 1 2 3 4 5 6 7 x"} {
		if got, err := parseMachineStat(bad); err == nil {
			t.Errorf("%q: %v, want an error", bad, got)
		}
	}
}

func TestCPUOfOthersIsWhatRemains(t *testing.T) {
	now := time.Now()
	out := outcome{begin: now, end: now.Add(time.Second), window: counters{cpu: 300 * time.Millisecond}, self: 200 * time.Millisecond, machine: time.Second}
	if got, want := out.others(), 0.5/float64(runtime.NumCPU()); got < want-1e-9 || got > want+1e-9 {
		t.Errorf("got %v, want %v", got, want)
	}
}
