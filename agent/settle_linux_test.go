package agent

import (
	"fmt"
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
	const tail = "Size: 4 kB\nRss: 4 kB\nPrivate_Dirty: %s kB\nAnonymous: %s kB\nSwap: %s kB\nVmFlags: rd mr mw me\n"
	for _, c := range []struct {
		head, anonymous, swap string
		want                  bool
	}{
		{"00400000-00a00000 r-xp 00000000 fe:00 42 /usr/bin/agent", "0", "0", true},
		{"00a00000-00b00000 r--p 00600000 fe:00 42 /usr/bin/agent", "0", "0", true},
		{"00a00000-00b00000 r--p 00600000 fe:00 42 /usr/bin/agent", "8", "0", false}, // relocated, then protected
		{"00a00000-00b00000 r--p 00600000 fe:00 42 /usr/bin/agent", "0", "8", false},
		{"00b00000-00c00000 rw-p 00700000 fe:00 42 /usr/bin/agent", "0", "0", false},
		{"7f0000000000-7f0000100000 r--p 00000000 fe:00 43 /usr/lib/libc.so", "0", "0", false},
		{"7f0000000000-7f0000100000 r--s 00000000 fe:00 44 /data/cache.db", "0", "0", false},
		{"c000000000-c000400000 rw-p 00000000 00:00 0", "4", "0", false},
	} {
		smaps := c.head + "\n" + fmt.Sprintf(tail, c.anonymous, c.anonymous, c.swap)
		clean, err := cleanPages(strings.NewReader(smaps+smaps), "/usr/bin/agent")
		if err != nil || (len(clean) == 2) != c.want || len(clean) > 0 && clean[0].to <= clean[0].from {
			t.Errorf("%s: %x, %v, want %v", smaps, clean, err, c.want)
		}
	}
}
