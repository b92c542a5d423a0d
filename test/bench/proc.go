package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// counters are what the kernel has charged a process with since it began, its ended threads included.
type counters struct {
	cpu   time.Duration // user and system
	wrote int64         // bytes of pages it made dirty in the page cache, or wrote past it
}

func (c counters) minus(d counters) counters { return counters{c.cpu - d.cpu, c.wrote - d.wrote} }

// tick is the unit of times in /proc/PID/stat: USER_HZ, 100 on every Linux architecture that Go runs on.
const tick = 10 * time.Millisecond

// readCounters works on a process that has ended too, as long as nobody has waited for it.
func readCounters(pid int) (counters, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return counters{}, err
	}
	cpu, err := parseStat(stat)
	if err != nil {
		return counters{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	io, err := readFields(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return counters{}, err
	}
	wrote, ok := io["write_bytes"]
	if !ok {
		return counters{}, fmt.Errorf("/proc/%d/io has no write_bytes", pid)
	}
	return counters{cpu, wrote}, nil
}

// parseStat reads utime and stime, the 14th and 15th fields (proc(5)). The second is the name in parentheses, which
// may hold anything.
func parseStat(stat []byte) (time.Duration, error) {
	_, rest, ok := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(") "))
	f := bytes.Fields(rest)
	if !ok || len(f) < 13 {
		return 0, fmt.Errorf("not understood: %q", stat)
	}
	user, err := strconv.ParseInt(string(f[11]), 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(string(f[12]), 10, 64)
	if err != nil {
		return 0, err
	}
	return time.Duration(user+system) * tick, nil
}

// machineCPU is the time all cores have been busy since boot.
func machineCPU() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseMachineStat(string(b))
}

// parseMachineStat sums the first line but for the 4th and 5th figure, idle and waiting for disks, and the guests',
// the 9th and 10th, which are in the first two already (proc(5)).
func parseMachineStat(stat string) (time.Duration, error) {
	line, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat: not understood: %q", line)
	}
	var busy time.Duration
	for i, v := range f[1:9] {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		if i != 3 && i != 4 {
			busy += time.Duration(n) * tick
		}
	}
	return busy, nil
}

// memory is what a process holds, in bytes.
type memory struct {
	rss, anon int64
	threads   int64
}

func readMemory(pid int) (memory, error) {
	f, err := readFields(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	m := memory{rss: f["VmRSS"] << 10, anon: f["RssAnon"] << 10, threads: f["Threads"]}
	if m.rss == 0 || m.threads == 0 {
		return memory{}, fmt.Errorf("/proc/%d/status has no VmRSS or Threads", pid)
	}
	return m, nil
}

// readFields reads the lines "name: number [unit]" of a file; others are left out.
func readFields(path string) (map[string]int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(line, ":")
		if v := strings.Fields(rest); ok && len(v) > 0 {
			if n, err := strconv.ParseInt(v[0], 10, 64); err == nil {
				m[name] = n
			}
		}
	}
	return m, nil
}

// allocated is what the files under dir take on disk: blocks, not lengths.
func allocated(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if os.IsNotExist(err) {
			return nil // removed meanwhile by the server
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}

// metric finds the value of one unlabelled series in a Prometheus text exposition.
func metric(exposition []byte, name string) (float64, bool) {
	s := bufio.NewScanner(bytes.NewReader(exposition))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if v, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			n, err := strconv.ParseFloat(v, 64)
			return n, err == nil
		}
	}
	return 0, false
}
