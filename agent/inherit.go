package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"holdfast/config"
)

// firstInherited is the first descriptor that systemd passes, SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstInherited = 3

// inheritedMax bounds LISTEN_FDS: more than that is no list of sockets.
const inheritedMax = 64

// inherit takes over the sockets that the service manager passed to this process: LISTEN_FDS, if LISTEN_PID is ours.
func inherit(getenv func(string) string) ([]net.Listener, error) {
	if getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || getenv("LISTEN_FDS") == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > inheritedMax {
		return nil, refusef("LISTEN_FDS=%s: not a number from 0 to %d", getenv("LISTEN_FDS"), inheritedMax)
	}
	var all []net.Listener
	for fd := firstInherited; fd < firstInherited+n; fd++ {
		l, err := listenerOf(fd)
		if err != nil {
			return nil, errors.Join(refusef("socket %d passed by the service manager cannot be listened on: %w: take it out of the .socket unit", fd, err), closeAll(all))
		}
		all = append(all, l)
	}
	return all, nil
}

func listenerOf(fd int) (net.Listener, error) {
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "LISTEN_FD_"+strconv.Itoa(fd))
	l, err := net.FileListener(f) // a copy
	return l, errors.Join(err, f.Close())
}

func closeAll(all []net.Listener) error {
	var errs []error
	for _, l := range all {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// takeInherited takes the socket that is bound where u says out of the list.
func takeInherited(all []net.Listener, u config.URL) (net.Listener, []net.Listener) {
	at := slices.IndexFunc(all, func(l net.Listener) bool { return boundTo(l.Addr(), u) })
	if at < 0 {
		return nil, all
	}
	return all[at], slices.Delete(slices.Clone(all), at, at+1)
}

// boundTo reports whether a socket is bound to the address of u. All spellings of "every address" are one.
func boundTo(addr net.Addr, u config.URL) bool {
	switch addr := addr.(type) {
	case *net.UnixAddr:
		path, err := filepath.Abs(u.Address)
		return err == nil && u.Network == "unix" && filepath.Clean(addr.Name) == path
	case *net.TCPAddr:
		if u.Network != "tcp" {
			return false
		}
		want, err := net.ResolveTCPAddr("tcp", u.Address)
		if err != nil || want.Port != addr.Port {
			return false
		}
		everywhere := len(want.IP) == 0 || want.IP.IsUnspecified()
		return want.IP.Equal(addr.IP) || everywhere && addr.IP.IsUnspecified()
	}
	return false
}

// unmatched is the refusal of sockets that nothing in the configuration asks for.
func unmatched(all []net.Listener) error {
	if len(all) == 0 {
		return nil
	}
	a := all[0].Addr()
	return refusef("the service manager passed a socket for %s %s and no listener is configured there: add it to --listen, --socket or --metrics-listen, or take it out of the .socket unit", a.Network(), fmt.Sprint(a))
}
