//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"sync"
	"syscall"
)

// Built reports whether this program can be made to die at a point.
const Built = true

var deadly = sync.OnceValue(func() Point { return Point(os.Getenv("FAILPOINT")) })

// Hit notes that the process has come to p, and kills it if it was asked to. It does not return then.
func Hit(p Point) {
	if path := os.Getenv("FAILPOINT_LOG"); path != "" {
		note(path, p)
	}
	if p != deadly() {
		return
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(fmt.Sprintf("failpoint %s: %v", p, err))
	}
	select {} // the signal is on its way
}

// Hang does not return if l is to hang from now on.
func Hang(l Loop) {
	if os.Getenv("FAILPOINT_HANG") != string(l) {
		return
	}
	if _, err := os.Stat(os.Getenv("FAILPOINT_HANG_IF")); err == nil {
		select {}
	}
}

func note(path string, p Point) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		panic(fmt.Sprintf("failpoint %s: %v", p, err))
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, p); err != nil {
		panic(fmt.Sprintf("failpoint %s: %v", p, err))
	}
}
