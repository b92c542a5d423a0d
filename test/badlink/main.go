//go:build linux

// Badlink joins network namespaces by links that delay, lose, reorder and throttle packets.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const usage = `badlink: bad networks between namespaces, in user space (TUN), for TCP and UDP alike

  badlink [-i INSTANCE] up --hosts a,b,c [--subnet 10.77.0.0/24] [--mtu 1500] [--prefix P] [--seed N] [--PARAM VALUE]...
  badlink [-i INSTANCE] set TARGET PARAM VALUE [PARAM VALUE]...
  badlink [-i INSTANCE] set HOST uprate RATE downrate RATE        the host's whole access line
  badlink [-i INSTANCE] partition TARGET...    |  heal [TARGET...]  |  drop (packets in flight)
  badlink [-i INSTANCE] show | stats [--json] [--all] [--reset] | play FILE | exec HOST CMD... | down

TARGET  a-b both directions; a>b one; a every link of a; a> from a; >a to a; a,b|c,d between groups; all
PARAM   delay 25ms  jitter 5ms  loss 5%  burst 5%/4 (mean loss/mean run)  ge p%,r%[,bad%[,good%]]
        outage 20s/500ms (mean up/mean down)  rate 10mbit  queue 100ms|64k  dup 1%  reorder 1%
        reorder-by 5ms  mtu 1280 (larger packets vanish);  "off" or 0 turns one off
All parameters are per direction; delay is one way (RTT = twice). Instance: -i or $BADLINK, else "default".
`

func die(f string, a ...any) {
	fmt.Fprintf(os.Stderr, "badlink: "+f+"\n", a...)
	os.Exit(1)
}

var instance = "default"

func path(ext string) string { return filepath.Join("/run/badlink", instance+ext) }

type options struct {
	Hosts  []string `json:"hosts"`
	Subnet string   `json:"subnet"`
	Prefix string   `json:"prefix"`
	MTU    int      `json:"mtu"`
	Seed   uint64   `json:"seed"`
	P      Params   `json:"params"`
}

func main() {
	args := os.Args[1:]
	if v := os.Getenv("BADLINK"); v != "" {
		instance = v
	}
	if len(args) > 1 && args[0] == "-i" {
		instance, args = args[1], args[2:]
	}
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Print(usage)
		return
	}
	switch args[0] {
	case "up":
		up(args[1:])
	case "daemon":
		daemon(args[1])
	case "down":
		down()
	case "exec":
		if len(args) < 3 {
			die("exec HOST CMD...")
		}
		o := readState()
		bin, err := exec.LookPath("ip")
		if err != nil {
			die("%v", err)
		}
		err = syscall.Exec(bin, append([]string{"ip", "netns", "exec", o.Prefix + args[1]}, args[2:]...), os.Environ())
		die("%v", err)
	case "play":
		if len(args) != 2 {
			die("play FILE")
		}
		play(args[1])
	default:
		out, err := call(args)
		fmt.Print(out)
		if err != nil {
			die("%v", err)
		}
	}
}

func parseUp(args []string) options {
	o := options{Subnet: "10.77.0.0/24", MTU: 1500, Seed: 1}
	for i := 0; i < len(args); i++ {
		k, v, ok := strings.Cut(strings.TrimPrefix(args[i], "--"), "=")
		if !strings.HasPrefix(args[i], "--") {
			die("up: what is %q?", args[i])
		}
		if !ok {
			if i++; i == len(args) {
				die("up: --%s wants a value", k)
			}
			v = args[i]
		}
		var err error
		switch k {
		case "hosts":
			o.Hosts = strings.Split(v, ",")
		case "subnet":
			o.Subnet = v
		case "prefix":
			o.Prefix = v
		case "mtu":
			o.MTU, err = strconv.Atoi(v)
		case "seed":
			o.Seed, err = strconv.ParseUint(v, 10, 64)
		default:
			err = o.P.Set(k, v)
		}
		if err != nil {
			die("up: --%s: %v", k, err)
		}
	}
	if len(o.Hosts) < 2 {
		die("up: --hosts wants two names or more")
	}
	seen := map[string]bool{}
	for _, n := range o.Hosts {
		if n == "" || n == "all" || strings.ContainsAny(n, ">|/ ") || seen[n] {
			die("up: bad or repeated host name %q", n)
		}
		seen[n] = true
	}
	return o
}

func up(args []string) {
	o := parseUp(args)
	if os.Geteuid() != 0 {
		die("up: must be root")
	}
	if err := os.MkdirAll("/run/badlink", 0o755); err != nil {
		die("%v", err)
	}
	if c, err := net.Dial("unix", path(".sock")); err == nil {
		c.Close()
		die("instance %q is up already (badlink -i %s down)", instance, instance)
	}
	js, _ := json.Marshal(o)
	self, err := os.Executable()
	if err != nil {
		die("%v", err)
	}
	log, err := os.Create(path(".log"))
	if err != nil {
		die("%v", err)
	}
	// The child inherits this thread's scheduling, and so does each of its threads: before all ordinary
	// processes, so that packets leave in time on a busy machine. (Nice values would not do: setsid
	// makes a new autogroup, inside which alone they count.)
	runtime.LockOSThread()
	unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 10}, 0)
	cmd := exec.Command(self, "-i", instance, "daemon", string(js))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		die("%v", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for range 200 {
		select {
		case err := <-done:
			b, _ := os.ReadFile(path(".log"))
			die("up failed: %v\n%s", err, b)
		case <-time.After(50 * time.Millisecond):
		}
		if out, err := call([]string{"show"}); err == nil {
			fmt.Print(out)
			return
		}
	}
	die("up: the daemon does not answer; see %s", path(".log"))
}

func daemon(js string) {
	var o options
	if err := json.Unmarshal([]byte(js), &o); err != nil {
		die("%v", err)
	}
	subnet, err := netip.ParsePrefix(o.Subnet)
	if err != nil || !subnet.Addr().Is4() {
		die("bad IPv4 subnet %q", o.Subnet)
	}
	h, err := newHub(o.Hosts, o.Prefix, subnet, o.MTU, o.Seed, o.P)
	if err != nil {
		if h != nil {
			h.close()
		}
		die("%v", err)
	}
	os.WriteFile(path(".json"), []byte(js), 0o644)
	os.WriteFile(path(".pid"), []byte(strconv.Itoa(os.Getpid())), 0o644)
	h.run()
	os.Remove(path(".sock"))
	ln, err := net.Listen("unix", path(".sock"))
	if err != nil {
		h.close()
		die("%v", err)
	}
	bye := make(chan net.Conn, 2)
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-sig
		bye <- nil
	}()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				var args []string
				if json.NewDecoder(c).Decode(&args) != nil || len(args) == 0 {
					c.Close()
					return
				}
				if args[0] == "down" {
					bye <- c
					return
				}
				out, err := h.command(args)
				r := reply{Out: out}
				if err != nil {
					r.Err = err.Error()
				}
				json.NewEncoder(c).Encode(r)
				c.Close()
			}()
		}
	}()
	c := <-bye
	h.close()
	for _, e := range []string{".json", ".pid", ".sock", ".log"} {
		os.Remove(path(e))
	}
	if c != nil {
		json.NewEncoder(c).Encode(reply{})
		c.Close()
	}
}

type reply struct{ Out, Err string }

func call(args []string) (string, error) {
	c, err := net.Dial("unix", path(".sock"))
	if err != nil {
		return "", fmt.Errorf("instance %q is not up (%v)", instance, err)
	}
	defer c.Close()
	json.NewEncoder(c).Encode(args)
	b, err := io.ReadAll(c)
	if err != nil {
		return "", err
	}
	var r reply
	if err := json.Unmarshal(b, &r); err != nil {
		return "", err
	}
	if r.Err != "" {
		err = fmt.Errorf("%s", r.Err)
	}
	return r.Out, err
}

func readState() (o options) {
	b, err := os.ReadFile(path(".json"))
	if err != nil {
		die("instance %q is not up", instance)
	}
	json.Unmarshal(b, &o)
	return o
}

func down() {
	if _, err := call([]string{"down"}); err == nil {
		return
	}
	// The daemon is gone: clear up what it left.
	b, err := os.ReadFile(path(".json"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "badlink: instance %q was not up\n", instance)
		return
	}
	var o options
	json.Unmarshal(b, &o)
	for _, n := range o.Hosts {
		sh("ip", "netns", "del", o.Prefix+n)
	}
	for _, e := range []string{".json", ".pid", ".sock"} {
		os.Remove(path(e))
	}
}

// play runs a script of lines such as "at 5s set a-b loss 10%" ("at" counts from the start, "after" from the line before).
func play(file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		die("%v", err)
	}
	start := time.Now()
	for n, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(strings.SplitN(line, "#", 2)[0])
		if len(f) == 0 {
			continue
		}
		if len(f) < 3 || f[0] != "at" && f[0] != "after" {
			die("%s:%d: at|after DURATION COMMAND...", file, n+1)
		}
		d, err := time.ParseDuration(f[1])
		if err != nil {
			die("%s:%d: %v", file, n+1, err)
		}
		if f[0] == "at" {
			d -= time.Since(start)
		}
		time.Sleep(d)
		out, err := call(f[2:])
		fmt.Printf("%8.3fs %s\n%s", time.Since(start).Seconds(), strings.Join(f[2:], " "), out)
		if err != nil {
			die("%s:%d: %v", file, n+1, err)
		}
	}
}

func writeJSON(w io.Writer, h *Hub) {
	type linkJSON struct {
		Link   string
		Params Params
		Stats
	}
	var v struct {
		Links      []linkJSON
		Unroutable uint64
		WriteErr   uint64
		InFlight   int
		LateP50US  int64
		LateP99US  int64
		LateP999US int64
		LateMaxUS  int64
		UptimeSec  float64
	}
	for i, row := range h.links {
		for j, l := range row {
			if l != nil {
				v.Links = append(v.Links, linkJSON{h.hosts[i].Name + ">" + h.hosts[j].Name, l.P, l.S})
			}
		}
	}
	v.Unroutable, v.WriteErr, v.InFlight = h.unroutable, h.writeErr, len(h.q)
	v.LateP50US, v.LateP99US, v.LateP999US, v.LateMaxUS = h.lateness(.5), h.lateness(.99), h.lateness(.999), h.maxLate/1000
	v.UptimeSec = time.Since(h.start).Seconds()
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	e.Encode(v)
}
