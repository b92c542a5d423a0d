package agent

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// notifier tells the service manager how the agent is doing, in the protocol of sd_notify(3): one datagram of
// NAME=value lines to the socket in NOTIFY_SOCKET. A nil notifier tells nobody.
type notifier struct {
	socket   string
	watchdog time.Duration // how often the manager wants a sign of life, 0 for never
}

// notifyTimeout bounds a datagram to a manager that does not read its socket.
const notifyTimeout = 2 * time.Second

// newNotifier reads what the service manager left in the environment. No NOTIFY_SOCKET is no manager.
func newNotifier(getenv func(string) string) (*notifier, error) {
	socket := getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil, nil
	}
	// A path, or an abstract socket that begins with @, which package net spells the same.
	if socket[0] != '/' && socket[0] != '@' {
		return nil, refusef("NOTIFY_SOCKET=%s: only paths and abstract sockets are understood", socket)
	}
	n := &notifier{socket: socket}
	if pid := getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return n, nil // meant for another process
	}
	if text := getenv("WATCHDOG_USEC"); text != "" {
		usec, err := strconv.ParseInt(text, 10, 64)
		if err != nil || usec <= 0 || usec > int64(time.Duration(1<<63-1)/time.Microsecond) {
			return nil, refusef("WATCHDOG_USEC=%s: not a number of microseconds", text)
		}
		n.watchdog = time.Duration(usec) * time.Microsecond
	}
	return n, nil
}

// send passes lines on. It blocks for notifyTimeout at most.
func (n *notifier) send(lines ...string) error {
	if n == nil {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	if _, err := conn.Write([]byte(strings.Join(lines, "\n"))); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}

// status is the line for STATUS=text; a line end would begin another assignment.
func status(text string) string { return "STATUS=" + strings.ReplaceAll(text, "\n", " ") }
