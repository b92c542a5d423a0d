//go:build linux

// Command badlink joins network namespaces by links that delay, lose, reorder, throttle and cut packets, each direction
// of each pair of hosts by its own parameters. It needs a Linux with TUN and namespaces, root and iproute2, and no
// netem: every IPv4 packet, TCP, UDP and ICMP alike, goes through one process in user space. README.md has the manual
// and what the links were seen to do.
//
//	badlink up --hosts a,b --delay 25ms --loss 5%
//	badlink exec a CMD
//	badlink partition a-b
//	badlink down
//
// "up" leaves a daemon behind that holds the namespaces; the other commands speak to it over a socket in /run/badlink.
// Several instances live side by side, named by -i or BADLINK.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

const usage = `badlink: bad networks between namespaces, in user space (TUN), for TCP and UDP alike

  badlink [-i INSTANCE] up --hosts a,b,c [--subnet 10.77.0.0/24] [--mtu 1500] [--prefix P] [--seed N] [--PARAM VALUE]...
  badlink [-i INSTANCE] set TARGET PARAM VALUE [PARAM VALUE]...
  badlink [-i INSTANCE] set HOST uprate RATE downrate RATE        the host's whole access line
  badlink [-i INSTANCE] partition TARGET...    |  heal [TARGET...]  |  drop (packets in flight)
  badlink [-i INSTANCE] show | stats [--json] [--all] [--reset] | play FILE | exec HOST CMD... | down

TARGET  a-b both directions; a>b one; a every link of a; a> from a; >a to a; a,b|c,d between groups; all
PARAM   delay 25ms  jitter 5ms  loss 5%  burst 5%/4 (mean loss/mean run)  ge p%,r%[,bad%[,good%]]
        outage 20s/500ms (mean up/mean down)  udp 100% (of UDP alone)  rate 10mbit  queue 100ms|64k  dup 1%  reorder 1%
        reorder-by 5ms  mtu 1280 (larger packets vanish);  "off" or 0 turns one off
All parameters are per direction; delay is one way (RTT = twice). Instance: -i or $BADLINK, else "default".
`

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "badlink:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	i := instance("default")
	if v := os.Getenv("BADLINK"); v != "" {
		i = instance(v)
	}
	if len(args) > 1 && args[0] == "-i" {
		i, args = instance(args[1]), args[2:]
	}
	if err := i.check(); err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"help"}
	}
	switch rest := args[1:]; args[0] {
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	case "up":
		return i.up(ctx, rest)
	case daemonArg:
		return i.daemon(ctx, rest)
	case "down":
		return i.down(ctx)
	case "exec":
		return i.exec(rest)
	case "play":
		return i.play(ctx, rest)
	default:
		out, err := i.call(ctx, args)
		fmt.Print(out)
		return err
	}
}

// exec becomes a command inside a namespace.
func (i instance) exec(args []string) error {
	if len(args) < 2 {
		return errors.New("exec wants HOST CMD")
	}
	o, err := i.state()
	if err != nil {
		return err
	}
	bin, err := exec.LookPath("ip")
	if err != nil {
		return err
	}
	return syscall.Exec(bin, append([]string{"ip", "netns", "exec", o.Prefix + args[0]}, args[1:]...), os.Environ())
}
