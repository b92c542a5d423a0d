package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
)

// verifyUDP accepts an address to listen on: an empty host is all addresses of the machine, port 0 any free one.
func verifyUDP(text string) error {
	_, _, err := splitHostPort(text)
	if err != nil {
		return fmt.Errorf("must be an address and a port, as :2380 or 192.0.2.7:2380: %w", err)
	}
	return nil
}

// verifyPeer accepts an address that another machine can dial.
func verifyPeer(text string) error {
	host, port, err := splitHostPort(text)
	switch {
	case err != nil:
		return fmt.Errorf("must be host:port, as node-1.example:2380 or [2001:db8::1]:2380: %w", err)
	case host == "" || port == 0:
		return errors.New("must name a host and a port, as node-1.example:2380")
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.IsUnspecified() {
		return errors.New("is every address of a machine and none that can be dialed: name one")
	}
	return nil
}

// verifyJoin accepts what verifyPeer does, and the name of a DNS service, either also as that of a proxy.
func verifyJoin(text string) error {
	text = strings.TrimPrefix(text, "proxy:")
	name, ok := strings.CutPrefix(text, "srv:")
	if !ok {
		return verifyPeer(text)
	}
	if name == "" || strings.Trim(name, ".") == "" || strings.ContainsAny(name, " \t\r\n/@:\x00") {
		return errors.New("must name a DNS service behind srv:, as srv:example.com for the SRV record _holdfast._udp.example.com")
	}
	return nil
}

func splitHostPort(text string) (host string, port uint16, err error) {
	host, service, err := net.SplitHostPort(text)
	if err != nil {
		if e, ok := errors.AsType[*net.AddrError](err); ok {
			err = errors.New(e.Err)
		}
		return "", 0, err
	}
	n, err := strconv.ParseUint(service, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != service {
		return "", 0, errors.New("the port must be a number from 0 to 65535")
	}
	if strings.ContainsAny(host, " \t\r\n/@\x00") {
		return "", 0, errors.New("the host has a character that no host has")
	}
	return host, uint16(n), nil
}

// verifyMirrors refuses a prefix that another one has in it: it would be fetched and kept twice.
func verifyMirrors(list reflect.Value) error {
	for i := range list.Len() {
		for j := range list.Len() {
			a, b := list.Index(i).String(), list.Index(j).String()
			switch {
			case i == j || !strings.HasPrefix(b, a):
			case a != b:
				return fmt.Errorf("has the entry %s, which %s covers already: leave it out", quote(b), quote(a))
			default:
				return fmt.Errorf("has the entry %s twice", quote(a))
			}
		}
	}
	return nil
}

// verifyQueued refuses two rules for one prefix. Prefixes within each other are good: the longest one wins.
func verifyQueued(list reflect.Value) error {
	seen := map[string]bool{}
	for i := range list.Len() {
		prefix := list.Index(i).FieldByName("Prefix").String()
		if seen[prefix] {
			return fmt.Errorf("has the prefix %s twice, and only one rule can count", quote(prefix))
		}
		seen[prefix] = true
	}
	return nil
}

// String is the entry as it can stand in a list of a YAML file: text if only the prefix is set.
func (p QueuePrefix) String() string {
	var parts []string
	for _, part := range []struct{ key, value string }{{"lane", p.Lane}, {"guard", p.Guard}, {"on-full", p.OnFull}} {
		if part.value != "" {
			parts = append(parts, part.key+": "+part.value)
		}
	}
	if p.Expires != 0 {
		parts = append(parts, "expires: "+formatDuration(p.Expires))
	}
	if p.MaxBytes != 0 {
		parts = append(parts, "max-bytes: "+p.MaxBytes.String())
	}
	if len(parts) == 0 {
		return p.Prefix
	}
	return "{prefix: " + p.Prefix + ", " + strings.Join(parts, ", ") + "}"
}
