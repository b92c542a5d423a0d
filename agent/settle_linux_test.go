package agent

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// residentFile is how much of files this process has mapped and resident, in kB.
func residentFile(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no RssFile in %s", b)
	return 0
}

func TestPagesThatAreNotInUseAreGivenBack(t *testing.T) {
	before := residentFile(t)
	if err := dropPages(); err != nil {
		t.Fatal(err)
	}
	if after := residentFile(t); after >= before {
		t.Errorf("%d kB of files are resident, %d before", after, before)
	}
}

func TestOnlyCleanPagesOfTheExecutableAreGivenBack(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-00a00000 r-xp 00000000 fe:00 42 /usr/bin/agent":           true,
		"00a00000-00b00000 r--p 00600000 fe:00 42 /usr/bin/agent":           true,
		"00b00000-00c00000 rw-p 00700000 fe:00 42 /usr/bin/agent":           false,
		"7f0000000000-7f0000100000 r--p 00000000 fe:00 43 /usr/lib/libc.so": false,
		"7f0000000000-7f0000100000 r--s 00000000 fe:00 44 /data/cache.db":   false,
		"c000000000-c000400000 rw-p 00000000 00:00 0":                       false,
	} {
		from, to, ok := cleanPages(line, "/usr/bin/agent")
		if ok != want || ok && (from == 0 || to <= from) {
			t.Errorf("%s: %v, %x to %x, want %v", line, ok, from, to, want)
		}
	}
}
