package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// syncCalls are the system calls that make data durable.
var syncCalls = [...]string{"fsync", "fdatasync", "msync", "sync_file_range", "syncfs", "sync"}

// straceArgs has strace detach itself (-D), so that the server is the child and not strace; and let all other calls
// pass unstopped.
func straceArgs(file string) []string {
	return []string{"-D", "-f", "-qq", "-ttt", "--seccomp-bpf", "-e", "trace=" + strings.Join(syncCalls[:], ","), "-o", file, "--"}
}

// syncs counts the calls that make data durable, in short runs apart from the timed ones, because being watched slows
// a server down: with many clients it then gathers more of them into one commit than it would at full speed.
func (b *bench) syncs(ctx context.Context, list []contender) error {
	if !installed("strace") {
		b.progress("strace is not installed: fsyncs are not counted")
		b.report.print("\nfsyncs were not counted: strace is not installed.\n")
		return nil
	}
	var rows [][]string
	for _, clients := range []int{1, 32} {
		for _, c := range onePerSystem(list) {
			b.progress("counting fsyncs, %d clients: %s", clients, c.name)
			values, err := b.countSyncs(ctx, c, clients)
			if err != nil {
				return fmt.Errorf("count the fsyncs of %s: %w", c.name, err)
			}
			x := cell{"put", "fsyncs", c.name, clients}
			b.report.add(x, 0, values)
			rows = append(rows, []string{
				strconv.Itoa(clients), c.name, b.report.figure(x, vSyncs, hundredth), b.report.figure(x, "ops", whole), b.report.figure(x, "calls", whole),
			})
		}
	}
	b.report.table("fsyncs per PUT, under strace", []string{"clients", "contender", "per PUT", "PUTs", "calls"}, rows)
	return nil
}

func installed(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

func (b *bench) countSyncs(ctx context.Context, c contender, clients int) (map[string]float64, error) {
	dir, err := b.tempDir()
	if err != nil {
		return nil, err
	}
	defer b.discard(dir)
	trace := filepath.Join(b.scratch, "trace")
	defer os.Remove(trace)
	v, err := c.system.start(ctx, dir, watched{trace: trace})
	if err != nil {
		return nil, err
	}
	defer v.kill()
	out, err := drive(ctx, b.options, v, c, load{clients: clients, warmup: min(b.warmup, time.Second), duration: min(b.duration, 3*time.Second), do: put})
	if err != nil {
		return nil, err
	}
	if _, err := v.stop(); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		return nil, err
	}
	calls, n := countCalls(string(text), out.begin, out.end), out.done
	return map[string]float64{vSyncs: float64(calls) / float64(n), "ops": float64(n), "calls": float64(calls)}, nil
}

// countCalls counts the calls that began in a window. A line is "pid seconds.micros name(arguments) = result"; one that
// was interrupted by another thread's has a second line with "<... name resumed>", which is not counted.
func countCalls(trace string, begin, end time.Time) int {
	n := 0
	for line := range strings.Lines(trace) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		s, err := strconv.ParseFloat(f[1], 64)
		if err != nil || s < seconds(begin) || s >= seconds(end) {
			continue
		}
		name, _, call := strings.Cut(f[2], "(")
		for _, c := range syncCalls {
			if call && name == c {
				n++
			}
		}
	}
	return n
}

func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }
