package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// URL is an address that clients are served on, ready for net.Listen(Network, Address).
type URL struct {
	Network string // tcp or unix
	Address string // host:port, or the path of a socket
	TLS     bool
}

var errURL = errors.New("must be http://host:port, https://host:port or unix:///path")

// ParseURL reads http://host:port, https://host:port or unix:///path. An empty host is all addresses of the machine, and
// port 0 is any free one.
func ParseURL(text string) (URL, error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		return parseUnix(path)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "":
		return URL{}, errURL
	case u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return URL{}, errors.New("must be a scheme, a host and a port only, as http://127.0.0.1:2379")
	case u.Port() == "":
		return URL{}, fmt.Errorf("must name a port, as %s://%s:2379", u.Scheme, strings.TrimSuffix(u.Host, ":"))
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || strconv.FormatUint(n, 10) != u.Port() {
		return URL{}, errors.New("must name a port from 0 to 65535")
	}
	return URL{Network: "tcp", Address: net.JoinHostPort(u.Hostname(), u.Port()), TLS: u.Scheme == "https"}, nil
}

func parseUnix(path string) (URL, error) {
	path = strings.TrimPrefix(path, "//")
	if !strings.HasPrefix(path, "/") {
		return URL{}, errors.New("must have an absolute path, as unix:///run/holdfast/client.sock")
	}
	if err := verifySocket(path); err != nil {
		return URL{}, err
	}
	return URL{Network: "unix", Address: path}, nil
}

// Local reports whether only this machine can reach the address. A host name other than localhost may mean anything and
// is not.
func (u URL) Local() bool {
	if u.Network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(u.Address)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return strings.EqualFold(host, "localhost")
	}
	return addr.Unmap().IsLoopback()
}

func (u URL) anyPort() bool { return u.Network == "tcp" && strings.HasSuffix(u.Address, ":0") }

// verifyOrigin accepts an Origin header as browsers send it (RFC 6454, section 6.2), and * for any.
func verifyOrigin(text string) error {
	if text == "*" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || text != u.Scheme+"://"+u.Host || u.Host != strings.ToLower(u.Host) {
		return errors.New("must be an origin, as https://example.com or http://localhost:8080, in lower case and without a path")
	}
	return nil
}
