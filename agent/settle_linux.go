package agent

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// dropPages unmaps the pages of the executable, so that those come back that are still used. Two thirds of what a
// proxy has resident at first is code and tables that only its start, or another kind of node, has touched or that the
// kernel mapped around what was touched. They are clean pages of a file: taking one away costs a minor fault, if it is
// ever needed again.
func dropPages() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		from, to, ok := cleanPages(lines.Text(), exe)
		if !ok {
			continue
		}
		if _, _, no := syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED); no != 0 {
			return fmt.Errorf("madvise: %w", no)
		}
	}
	return nil
}

// cleanPages returns the bounds of a mapping in /proc/self/maps if it is of the executable and was never writable.
func cleanPages(line, exe string) (from, to uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) != 6 || fields[5] != exe || fields[1] != "r-xp" && fields[1] != "r--p" {
		return 0, 0, false
	}
	if n, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil || n != 2 || to <= from {
		return 0, 0, false
	}
	return from, to, true
}
