package netwatch

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// inNamespace is set in the process that TestAnAddressThatAppearsIsHeardOf starts.
const inNamespace = "NETWATCH_TEST_NAMESPACE"

// TestAnAddressThatAppearsIsHeardOf starts the loopback of a new network namespace, which gives it its addresses. It does so in a
// process of its own, which without root gets the right by a user namespace. A kernel that allows neither is told from a fault here by
// what root may do: as root the test fails.
func TestAnAddressThatAppearsIsHeardOf(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		hearsOfTheLoopback(t)
		return
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAnAddressThatAppearsIsHeardOf$", "-test.v") //nolint:gosec // this test again
	child.Env = append(os.Environ(), inNamespace+"=1")
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	root := os.Getuid() == 0
	if !root {
		child.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		child.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := child.CombinedOutput()
	if _, ran := errors.AsType[*exec.ExitError](err); err != nil && !ran && !root && (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EACCES)) {
		t.Skipf("this kernel gives no user namespaces to who is not root (kernel.unprivileged_userns_clone, user.max_user_namespaces, AppArmor): run it as root: %v", err)
	}
	if err != nil {
		t.Fatalf("in a network namespace: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: TestAnAddressThatAppearsIsHeardOf") {
		t.Fatalf("nothing was tested in the namespace:\n%s", out)
	}
}

// hearsOfTheLoopback is the test, in a namespace without any address.
func hearsOfTheLoopback(t *testing.T) {
	f, err := open()
	if err != nil {
		t.Fatal(err)
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
	if err := loopbackUp(); err != nil {
		t.Error(err)
	}
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

// loopbackUp is `ip link set lo up`.
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
