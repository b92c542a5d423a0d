package transport

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// limitNotSent keeps what waits in the kernel for a TCP line short; without it a slow line is slow to react.
func limitNotSent(c net.Conn) {
	control(c, func(fd int) { _ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, tcpNotSent) })
}

// dualStack reports whether a socket that is bound to all addresses takes IPv4 too.
func dualStack(c any) bool {
	only := 0
	control(c, func(fd int) { only, _ = unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY) })
	return only == 0
}

func control(c any, f func(fd int)) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := s.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}

// transient reports whether a packet socket can go on after an error: there was no room, or nobody to take a packet.
func transient(err error) bool {
	return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ECONNREFUSED)
}
