//go:build !linux

package transport

import (
	"errors"
	"net"
	"syscall"
)

func limitNotSent(net.Conn) {}

func dualStack(any) bool { return true }

func transient(err error) bool {
	return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ECONNREFUSED)
}
