package netwatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// groups are what is listened to: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR and _IPV6_ROUTE of <linux/rtnetlink.h>.
const groups = 0x1 | 0x10 | 0x40 | 0x100 | 0x400

func run(ctx context.Context, changed func()) error {
	f, err := open()
	if err == nil {
		err = listen(ctx, f, changed)
	}
	if err != nil {
		return fmt.Errorf("listen for changes of the network: %w", err)
	}
	return nil
}

// rest is how long nothing is told after a change was: on a router, routes may come and go by the thousand.
const rest = 20 * time.Millisecond

// listen does the work of run, and closes f.
func listen(ctx context.Context, f *os.File, changed func()) error {
	news, ended := make(chan struct{}, 1), make(chan error, 1) // one place: what is told covers all that came before
	stop := context.AfterFunc(ctx, func() { _ = f.Close() })   // ends the read
	defer stop()
	go func() { ended <- read(f, news) }()
	for {
		select {
		case <-news:
			changed()
			time.Sleep(rest)
		case err := <-ended:
			_ = f.Close() // it has been read only
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

func read(f *os.File, news chan<- struct{}) error {
	buf := make([]byte, 16<<10) // more than a datagram holds; that the kernel speaks is enough
	for {
		if _, err := f.Read(buf); err != nil && !errors.Is(err, syscall.ENOBUFS) { // it had more to say than it keeps: a change for certain
			return err
		}
		select {
		case news <- struct{}{}:
		default:
		}
	}
}

// open opens a socket on which the kernel tells.
func open() (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, syscall.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(err, syscall.Close(fd))
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}
