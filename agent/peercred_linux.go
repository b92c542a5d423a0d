package agent

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/api"
)

// processOf asks the kernel who has connected to a unix socket (SO_PEERCRED in unix(7)); nil where it does not say.
func processOf(c net.Conn) *api.Process {
	if c.LocalAddr() == nil || c.LocalAddr().Network() != "unix" {
		return nil
	}
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	var cred *unix.Ucred
	if ctl := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); ctl != nil || err != nil {
		return nil
	}
	return &api.Process{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}
}
