//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// netnsDir is where ip keeps namespaces.
const netnsDir = "/run/netns/"

func ip(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// attach makes a namespace with an address for each host. What it has made when it fails is left to close.
func (h *Hub) attach(ctx context.Context, prefix string, subnet netip.Prefix) error {
	addr := subnet.Masked().Addr()
	for i, ho := range h.hosts {
		addr = addr.Next()
		if !subnet.Contains(addr) {
			return fmt.Errorf("%s is too small for %d hosts", subnet, len(h.hosts))
		}
		ns := prefix + ho.Name
		if _, err := os.Stat(netnsDir + ns); err == nil {
			return fmt.Errorf("namespace %s exists already (use other names or --prefix, or remove it: ip netns del %s)", ns, ns)
		}
		if err := ip(ctx, "netns", "add", ns); err != nil {
			return err
		}
		ho.NS, ho.Addr = ns, addr
		fd, err := openTUN(ns)
		if err != nil {
			return fmt.Errorf("tun in %s: %w", ns, err)
		}
		ho.fd = fd
		if err := configure(ctx, ns, fmt.Sprintf("%s/%d", addr, subnet.Bits()), h.mtu); err != nil {
			return err
		}
		a4 := addr.As4()
		h.route[binary.BigEndian.Uint32(a4[:])] = i
	}
	return nil
}

func configure(ctx context.Context, ns, addr string, mtu int) error {
	// Without IPv6 in the kernel there is nothing to turn off.
	const noIPv6 = "net.ipv6.conf.eth0.disable_ipv6"
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		if err := ip(ctx, "netns", "exec", ns, "sysctl", "-qw", noIPv6+"=1"); err != nil {
			return err
		}
	}
	for _, a := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "set", "eth0", "mtu", fmt.Sprint(mtu), "txqueuelen", "5000"},
		{"addr", "add", addr, "dev", "eth0"},
		{"link", "set", "eth0", "up"},
		{"route", "add", "default", "dev", "eth0"},
	} {
		if err := ip(ctx, append([]string{"-n", ns}, a...)...); err != nil {
			return err
		}
	}
	return nil
}

// openTUN makes the device eth0 inside a namespace and returns its descriptor.
func openTUN(ns string) (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread has another namespace and ends with the goroutine
		fd, err = tunFromWithin(ns)
	}()
	<-done
	return fd, err
}

func tunFromWithin(ns string) (int, error) {
	n, err := unix.Open(netnsDir+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(n)
	if err := unix.Setns(n, unix.CLONE_NEWNET); err != nil {
		return 0, fmt.Errorf("setns: %w", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("/dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq("eth0")
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		_ = unix.Close(fd) // nothing was written
		return 0, fmt.Errorf("make eth0: %w", err)
	}
	return fd, nil
}
