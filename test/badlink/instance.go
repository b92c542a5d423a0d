//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runDir has the files of all instances: NAME.sock, NAME.json with the options, NAME.log.
const runDir = "/run/badlink"

// instance is a set of hosts and the daemon that joins them, by name.
type instance string

func (i instance) path(ext string) string { return filepath.Join(runDir, string(i)+ext) }

func (i instance) check() error {
	if i == "" || strings.ContainsAny(string(i), "/ ") {
		return fmt.Errorf("%q cannot name an instance", string(i))
	}
	return nil
}

// options are what "up" was told.
type options struct {
	Hosts  []string `json:"hosts"`
	Subnet string   `json:"subnet"`
	Prefix string   `json:"prefix"` // of the namespaces' names
	MTU    int      `json:"mtu"`
	Seed   uint64   `json:"seed"`
	P      Params   `json:"params"`
}

func parseUp(args []string) (options, error) {
	o := options{Subnet: "10.77.0.0/24", MTU: 1500, Seed: 1}
	for len(args) > 0 {
		name, value, ok := strings.Cut(strings.TrimPrefix(args[0], "--"), "=")
		if !strings.HasPrefix(args[0], "--") {
			return o, fmt.Errorf("up: what is %q?", args[0])
		}
		args = args[1:]
		if !ok {
			if len(args) == 0 {
				return o, fmt.Errorf("up: --%s wants a value", name)
			}
			value, args = args[0], args[1:]
		}
		if err := o.set(name, value); err != nil {
			return o, fmt.Errorf("up: --%s: %w", name, err)
		}
	}
	err := o.check()
	return o, err
}

func (o *options) set(name, value string) (err error) {
	switch name {
	case "hosts":
		o.Hosts = strings.Split(value, ",")
	case "subnet":
		o.Subnet = value
	case "prefix":
		o.Prefix = value
	case "mtu":
		o.MTU, err = strconv.Atoi(value)
	case "seed":
		o.Seed, err = strconv.ParseUint(value, 10, 64)
	default:
		err = o.P.Set(name, value)
	}
	return err
}

func (o *options) check() error {
	if len(o.Hosts) < 2 {
		return errors.New("up: --hosts wants two names or more")
	}
	if o.MTU < 68 || o.MTU > 65535 { // RFC 791
		return fmt.Errorf("up: --mtu: %d is not from 68 to 65535", o.MTU)
	}
	seen := map[string]bool{}
	for _, n := range o.Hosts {
		if n == "" || n == "all" || strings.ContainsAny(n, ">|/ ") || seen[n] {
			return fmt.Errorf("up: bad or repeated host name %q", n)
		}
		seen[n] = true
	}
	return nil
}

// upMax bounds the start of a daemon.
const upMax = 10 * time.Second

// up starts the daemon and returns when it answers.
func (i instance) up(ctx context.Context, args []string) error {
	o, err := parseUp(args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("up: must be root")
	}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return err
	}
	if _, err := i.call(ctx, []string{"show"}); err == nil {
		return fmt.Errorf("instance %q is up already (badlink -i %s down)", i, i)
	}
	js, err := json.Marshal(o)
	if err != nil {
		return err
	}
	done, err := i.spawn(ctx, js)
	if err != nil {
		return fmt.Errorf("up: %w", err)
	}
	for begin := time.Now(); time.Since(begin) < upMax; {
		select {
		case err := <-done:
			log, _ := os.ReadFile(i.path(".log")) // what is missing is missing from the message only
			return fmt.Errorf("up: the daemon ended: %w\n%s", err, log)
		case <-time.After(50 * time.Millisecond):
		}
		if out, err := i.call(ctx, []string{"show"}); err == nil {
			fmt.Print(out)
			return nil
		}
	}
	return fmt.Errorf("up: the daemon does not answer; see %s", i.path(".log"))
}

// priority of the daemon among real-time processes.
const priority = 10

// spawn starts the daemon in a session of its own. The channel gets how it ended, if it ends while this process lives.
func (i instance) spawn(ctx context.Context, js []byte) (<-chan error, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(i.path(".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// The child inherits this thread's scheduling, and so does each of its threads: before all ordinary processes, so
	// that packets leave in time on a busy machine. (Nice values would not do: setsid makes a new autogroup, inside
	// which alone they count.)
	runtime.LockOSThread()
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: priority}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		fmt.Fprintf(os.Stderr, "badlink: no real-time priority, packets may be late on a busy machine: %v\n", err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, "-i", string(i), daemonArg, string(js))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	return done, nil
}

// reply is what the daemon answers.
type reply struct{ Out, Err string }

// call has the daemon carry out a command.
func (i instance) call(ctx context.Context, args []string) (string, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", i.path(".sock"))
	if err != nil {
		return "", fmt.Errorf("instance %q is not up: %w", i, err)
	}
	defer c.Close()
	if err := json.NewEncoder(c).Encode(args); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return "", err
	}
	var r reply
	if err := json.Unmarshal(b, &r); err != nil {
		return "", fmt.Errorf("the daemon's answer: %w", err)
	}
	if r.Err != "" {
		err = errors.New(r.Err)
	}
	return r.Out, err
}

// state is what the running instance was told when it was made.
func (i instance) state() (o options, err error) {
	b, err := os.ReadFile(i.path(".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return o, fmt.Errorf("instance %q is not up", i)
	}
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return o, fmt.Errorf("%s: %w", i.path(".json"), err)
	}
	return o, nil
}

// down ends the instance, or clears up what a daemon that was killed has left.
func (i instance) down(ctx context.Context) error {
	if _, err := i.call(ctx, []string{"down"}); err == nil {
		return i.gone()
	}
	o, err := i.state()
	if err != nil {
		return err
	}
	for _, n := range o.Hosts {
		if _, err := os.Stat(netnsDir + o.Prefix + n); err == nil {
			if err := ip(ctx, "netns", "del", o.Prefix+n); err != nil {
				return err
			}
		}
	}
	return i.forget()
}

// gone waits until a daemon that is ending has removed its files, so that the name can be used again.
func (i instance) gone() error {
	for begin := time.Now(); time.Since(begin) < controlMax; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(i.path(".json")); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	return fmt.Errorf("down: %s is still there after %v", i.path(".json"), controlMax)
}

// forget removes the instance's files, last the one whose absence says that the instance is gone.
func (i instance) forget() error {
	var errs []error
	for _, ext := range []string{".sock", ".log", ".json"} {
		if err := os.Remove(i.path(ext)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
