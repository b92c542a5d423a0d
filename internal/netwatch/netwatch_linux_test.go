package netwatch

import (
	"context"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// TestAnAddressThatAppearsIsHeardOf starts the loopback of a new network namespace, which gives it its addresses.
func TestAnAddressThatAppearsIsHeardOf(t *testing.T) {
	socket, appear := make(chan *os.File), make(chan struct{})
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and the namespace with it
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			t.Logf("no network namespace: %v", err)
			close(socket)
			return
		}
		f, err := open()
		if err != nil {
			t.Error(err)
			close(socket)
			return
		}
		socket <- f
		<-appear
		if err := loopbackUp(); err != nil {
			t.Error(err)
		}
	}()
	f, ok := <-socket
	if !ok {
		t.Skip("not allowed to make a network namespace here")
	}
	ctx, cancel := context.WithCancel(t.Context())
	heard, ended := make(chan struct{}, 16), make(chan error, 1)
	go func() {
		ended <- listen(ctx, f, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
		})
	}()
	select {
	case <-heard:
		t.Error("heard of a change before there was one")
	default:
	}
	close(appear)
	select {
	case <-heard:
	case <-time.After(20 * time.Second):
		t.Error("nothing heard of an address that appeared")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// loopbackUp is `ip link set lo up` for this thread.
func loopbackUp() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	req := struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: syscall.IFF_UP}
	copy(req.name[:], "lo")
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}
