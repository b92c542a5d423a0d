package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"holdfast/config"
)

// purpose is what a listener is for.
type purpose int

const (
	forClients purpose = iota
	forAdmin           // the unix socket: everything clients have, and what only this machine may see
	forMetrics         // metrics and health alone
)

func (p purpose) String() string {
	return [...]string{forClients: "clients", forAdmin: "administration", forMetrics: "metrics"}[p]
}

// door is an open listener.
type door struct {
	purpose  purpose
	url      config.URL
	listener net.Listener
}

// String is the URL of the door, with the port it really has.
func (d *door) String() string {
	if d.url.Network == "unix" {
		if path, err := filepath.Abs(d.url.Address); err == nil {
			return "unix://" + path // a URL has no relative path
		}
		return "unix://" + d.url.Address
	}
	scheme := "http://"
	if d.url.TLS {
		scheme = "https://"
	}
	return scheme + d.listener.Addr().String()
}

// locksmith opens listeners.
type locksmith struct {
	log       *slog.Logger
	listen    func(ctx context.Context, network, address string) (net.Listener, error) // nil for the real network
	inherited []net.Listener                                                           // of the service manager, taken before any is opened
}

// open opens everything the configuration asks for, or nothing. The data dir must be locked: a socket in it that nobody
// answers is then known to be a leftover.
func (s *locksmith) open(ctx context.Context, cfg config.Config) (doors []*door, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeDoors(doors), closeAll(s.inherited))
			doors = nil
		}
	}()
	for _, text := range cfg.Listen {
		d, err := s.openURL(ctx, forClients, text)
		if err != nil && noIPv6(err, text) && len(cfg.Listen) > 1 {
			s.log.Info("listener skipped, no IPv6 here", "url", text)
			continue
		}
		if err != nil {
			return doors, err
		}
		doors = append(doors, d)
	}
	if cfg.MetricsListen != "" {
		d, err := s.openURL(ctx, forMetrics, cfg.MetricsListen)
		if err != nil {
			return doors, err
		}
		doors = append(doors, d)
	}
	d, err := s.openAt(ctx, forAdmin, config.URL{Network: "unix", Address: cfg.Socket})
	if err != nil {
		return doors, err
	}
	return append(doors, d), unmatched(s.inherited)
}

func (s *locksmith) openURL(ctx context.Context, p purpose, text string) (*door, error) {
	u, err := config.ParseURL(text)
	if err != nil {
		return nil, refusef("listen %s: %w", text, err)
	}
	return s.openAt(ctx, p, u)
}

func (s *locksmith) openAt(ctx context.Context, p purpose, u config.URL) (*door, error) {
	l, rest := takeInherited(s.inherited, u)
	if l != nil {
		s.inherited = rest
		s.log.Info("listening on a socket of the service manager", "for", p.String(), "address", u.Address)
		return &door{p, u, l}, nil
	}
	var err error
	switch {
	case s.listen != nil:
		l, err = s.listen(ctx, u.Network, u.Address)
	case u.Network == "unix":
		l, err = listenUnix(ctx, u.Address)
	default:
		l, err = (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, u.Network, u.Address) // see keepAlive
	}
	if err != nil {
		return nil, listenError(p, u, err)
	}
	return &door{p, u, l}, nil
}

// socketMode lets the owner and the group of a socket connect.
const socketMode = 0o660

// staleTimeout bounds the wait for an answer on a socket that is there already.
const staleTimeout = time.Second

// listenUnix listens on a path, and removes what an agent that was killed left there.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return refusef("%s is there and is not a socket: move it away, or choose another path", path)
	}
	conn, err := (&net.Dialer{Timeout: staleTimeout}).DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(syscall.EADDRINUSE, conn.Close())
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	return fmt.Errorf("%s is there and cannot be probed: %w", path, err)
}

// listenError says what to do about a listener that did not open, and gives it its exit code.
func listenError(p purpose, u config.URL, err error) error {
	at := fmt.Sprintf("listen on %s for %s", u.Address, p)
	if _, known := errors.AsType[*exitError](err); known {
		return fmt.Errorf("%s: %w", at, err)
	}
	_, dns := errors.AsType[*net.DNSError](err)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return temporaryf("%s: %w: stop what listens there, or choose another address", at, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL), dns:
		return temporaryf("%s: %w: the address is not there (yet)", at, err)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return refusef("%s: %w: ports below 1024 need CAP_NET_BIND_SERVICE, and a socket needs a folder that the agent may write", at, err)
	case errors.Is(err, fs.ErrNotExist):
		return refusef("%s: %w: make the folder of the socket", at, err)
	}
	return storageError(fmt.Errorf("%s: %w", at, err))
}

// noIPv6 reports whether a loopback listener failed because the machine has no IPv6.
func noIPv6(err error, text string) bool {
	return (strings.HasPrefix(text, "http://[::1]:") || strings.HasPrefix(text, "https://[::1]:")) && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT))
}

func closeDoors(doors []*door) error {
	var errs []error
	for _, d := range doors {
		if err := d.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
