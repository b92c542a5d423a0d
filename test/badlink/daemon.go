//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// daemonArg makes this program the daemon.
const daemonArg = "daemon"

// controlMax bounds one exchange on the control socket.
const controlMax = 10 * time.Second

// daemon makes the namespaces, joins them until "down" or a signal, and removes them.
func (i instance) daemon(ctx context.Context, args []string) (err error) {
	var o options
	if len(args) != 1 {
		return errors.New("the daemon is started by up")
	}
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return err
	}
	subnet, err := netip.ParsePrefix(o.Subnet)
	if err != nil || !subnet.Addr().Is4() {
		return fmt.Errorf("bad IPv4 subnet %q", o.Subnet)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	h, err := newHub(o.Hosts, o.MTU, o.Seed, o.P)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, h.close(context.WithoutCancel(ctx)), i.forget())
	}()
	if err := h.attach(ctx, o.Prefix, subnet); err != nil {
		return err
	}
	if err := os.WriteFile(i.path(".json"), []byte(args[0]), 0o644); err != nil {
		return err
	}
	h.run()
	return i.control(ctx, h)
}

// control answers commands, one connection after the other, until one of them is "down" or ctx ends.
func (i instance) control(ctx context.Context, h *Hub) error {
	if err := os.Remove(i.path(".sock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "unix", i.path(".sock"))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		down, err := answer(ctx, c, h)
		if err != nil {
			fmt.Fprintln(os.Stderr, "badlink: control:", err) // one caller's trouble is not the daemon's
		}
		if down {
			return nil
		}
	}
}

// answer carries out one command. "down" is answered once the namespaces are gone.
func answer(ctx context.Context, c net.Conn, h *Hub) (down bool, err error) {
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetDeadline(time.Now().Add(controlMax)); err != nil {
		return false, err
	}
	var args []string
	if err := json.NewDecoder(c).Decode(&args); err != nil || len(args) == 0 {
		return false, err
	}
	var r reply
	if down = args[0] == "down"; down {
		err = h.close(ctx)
	} else {
		r.Out, err = h.command(args)
	}
	if err != nil {
		r.Err = err.Error()
	}
	return down, json.NewEncoder(c).Encode(r)
}
