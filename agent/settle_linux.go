package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// dropPages unmaps the pages of the executable, so that those come back that are still used. Two thirds of what a
// node has resident at first is code and tables that only its start, or another kind of node, has touched or that the
// kernel mapped around what was touched. They are clean pages of a file: taking one away costs a minor fault, if it is
// ever needed again.
func dropPages() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	clean, err := cleanPages(f, exe)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, m := range clean {
		if _, _, no := syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, syscall.MADV_DONTNEED); no != 0 {
			return fmt.Errorf("madvise: %w", no)
		}
	}
	return nil
}

// mapping is a range of addresses.
type mapping struct{ from, to uintptr }

// cleanPages returns the mappings of the executable in a /proc/PID/smaps (proc_pid_smaps(5)) that hold nothing but what
// is in the file. One that cannot be written now may have been before: a loader writes relocations and then protects
// them, and those pages, which are anonymous then, would be lost.
func cleanPages(smaps io.Reader, exe string) (clean []mapping, err error) {
	var m mapping
	var ours bool
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "Anonymous:", "Swap:":
			if fields[1] != "0" {
				ours = false
			}
		case "VmFlags:": // the last line of a mapping
			if ours {
				clean = append(clean, m)
			}
			ours = false
		default:
			if !strings.HasSuffix(fields[0], ":") {
				n, err := fmt.Sscanf(fields[0], "%x-%x", &m.from, &m.to)
				ours = err == nil && n == 2 && m.from < m.to && len(fields) == 6 && fields[5] == exe &&
					(fields[1] == "r-xp" || fields[1] == "r--p")
			}
		}
	}
	return clean, lines.Err()
}
