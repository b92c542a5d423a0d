package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Validate checks a Config that was not loaded, and reports every fault. It judges what can be judged without the
// network and without the data directory.
func (c *Config) Validate() error {
	var faults []*Fault
	for _, f := range settings() {
		v := f.of(c)
		if err := f.verify(v); err != nil {
			faults = append(faults, &Fault{Key: f.key, Value: f.text(v), Problem: err.Error()})
		}
	}
	return join(append(faults, c.verifyWhole(nil)...))
}

// Complete fills in what depends on the machine or on another setting: Name and Socket.
func (c *Config) Complete(hostname string) {
	if c.Name == "" {
		c.Name = hostname
	}
	if c.Socket == "" {
		c.Socket = filepath.Join(c.DataDir, "agent.sock")
	}
}

// verify checks one value by itself.
func (f *field) verify(v reflect.Value) error {
	if err := f.inRange(v); err != nil {
		return err
	}
	return f.verifyContent(v)
}

// inRange checks against oneof, min and max.
func (f *field) inRange(v reflect.Value) error {
	if len(f.oneOf) > 0 && !slices.Contains(f.oneOf, v.String()) && v.String() != f.def {
		return errors.New("must be one of " + strings.Join(f.oneOf, ", "))
	}
	if f.min == "" && f.max == "" || v.IsZero() && f.def == "none" {
		return nil
	}
	low, high := f.bound(f.min), f.bound(f.max)
	switch n := v.Int(); {
	case f.min != "" && f.max != "" && (n < low || n > high):
		return fmt.Errorf("must be from %s to %s", f.min, f.max)
	case f.min != "" && n < low:
		return fmt.Errorf("must be at least %s", f.min)
	case f.max != "" && n > high:
		return fmt.Errorf("must be at most %s", f.max)
	}
	return nil
}

// bound is a min or max tag as a number. A wrong tag is a mistake in this package and panics.
func (f *field) bound(tag string) int64 {
	if tag == "" {
		return 0
	}
	v, err := f.parseText(tag)
	if err != nil {
		panic(fmt.Sprintf("config: bound of %s %v", f.key, err))
	}
	return v.Int()
}

// verifyContent runs the check named by the field's tag.
func (f *field) verifyContent(v reflect.Value) error {
	if v.Kind() == reflect.Int64 && v.Int() < 0 {
		return errors.New("must not be negative")
	}
	switch f.check {
	case "label":
		return verifyLabel(v.String())
	case "path":
		return verifyPath(v.String())
	case "socket":
		return verifySocket(v.String())
	case "url":
		if v.String() == "" {
			return nil
		}
		_, err := ParseURL(v.String())
		return err
	case "collector":
		return verifyCollector(v.String())
	case "urls":
		return verifyEach(v, func(s string) error { _, err := ParseURL(s); return err })
	case "origins":
		return verifyEach(v, verifyOrigin)
	case "file":
		if v.String() == "" {
			return nil
		}
		return verifyFile(v.String())
	case "udp":
		return verifyUDP(v.String())
	case "peers":
		return verifyEach(v, verifyPeer)
	case "join":
		return verifyEach(v, verifyJoin)
	case "mirrors":
		return verifyMirrors(v)
	case "namespace":
		if len(v.String()) > namespaceMax {
			return fmt.Errorf("has %d bytes, at most %d are allowed", len(v.String()), namespaceMax)
		}
	case "queued":
		return verifyQueued(v)
	case "names":
		return verifyEach(v, verifyName)
	case "hours":
		return verifyEach(v, func(s string) error { _, err := ParseHours(s); return err })
	}
	return nil
}

// verifyName accepts what a certificate may be for: a host name, with a star for its first label perhaps, or an address.
func verifyName(name string) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return nil
	}
	if len(name) > labelMax || !hostName.MatchString(name) {
		return errors.New("must be a host name or an IP address, without a port")
	}
	return nil
}

var hostName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)*$`)

// verifyCollector accepts the URL of somebody else's server.
func verifyCollector(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("is no URL of a collector: write http://host:4318 or https://host:4318")
	}
	return nil
}

func verifyEach(list reflect.Value, verify func(string) error) error {
	for i := range list.Len() {
		if err := verify(list.Index(i).String()); err != nil {
			return fmt.Errorf("has the entry %s, which %w", quote(list.Index(i).String()), err)
		}
	}
	return nil
}

// namespaceMax leaves room for keys: limits.key, and what the store takes, are beyond it.
const namespaceMax = 1024

// labelMax is the longest host name that DNS knows.
const labelMax = 253

func verifyLabel(name string) error {
	switch {
	case len(name) > labelMax:
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(name), labelMax)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("must be printable text")
	}
	return nil
}

func verifyPath(path string) error {
	if path == "" {
		return errors.New("must not be empty: name a directory")
	}
	return verifyFile(path)
}

func verifyFile(path string) error {
	switch {
	case strings.ContainsRune(path, 0):
		return errors.New("must not contain a zero byte")
	case strings.HasPrefix(path, "~"):
		return errors.New("starts with ~, which only a shell understands: write the path out")
	}
	return nil
}

// socketMax is what the kernel allows in a socket's path: sun_path in unix(7) less the zero at its end.
const socketMax = 107

func verifySocket(path string) error {
	if path == "" {
		return nil // Complete derives it
	}
	if len(path) > socketMax {
		return fmt.Errorf("has %d bytes and the system allows %d: choose a shorter one, as /run/holdfast/agent.sock", len(path), socketMax)
	}
	return verifyPath(path)
}

// verifyWhole checks what concerns several settings at once. from may be nil.
func (c *Config) verifyWhole(from Provenance) []*Fault {
	var faults []*Fault
	fault := func(key, value, problem string) {
		faults = append(faults, &Fault{Key: key, Value: value, Origin: from[key], Problem: problem})
	}
	seen := map[string]string{} // address to the key that has it
	if c.Socket != "" {
		seen["unix "+c.Socket] = "socket"
	}
	for key, url := range c.urls() {
		u, err := ParseURL(url)
		if err != nil {
			continue // verify says so
		}
		if !c.Insecure && !u.TLS && !u.Local() {
			fault(key, url, "would serve plaintext beyond this machine: use a loopback address or a unix socket, or allow it with --insecure")
		}
		if u.TLS && c.TLS.CertFile == "" && !c.TLS.Auto {
			fault(key, url, "needs a certificate: set tls.cert-file and tls.key-file, or tls.auto")
		}
		at := u.Network + " " + u.Address
		if other, taken := seen[at]; taken && !u.anyPort() {
			fault(key, url, "is taken by "+other+" already: each listener needs an address of its own")
		}
		seen[at] = key
	}
	if strings.HasPrefix(c.TokenFile, "HF1") && strings.Contains(c.TokenFile, "::") {
		fault("token-file", "", "names a file, and was given what looks like the token itself: write that into a file of mode 0600 and name it, or set HOLDFAST_TOKEN")
	}
	c.TLS.verify(fault)
	if c.Limits.Value+c.Limits.Key > c.Limits.Request {
		fault("limits.request", c.Limits.Request.String(), fmt.Sprintf("must be at least limits.value and limits.key together, %s", c.Limits.Value+c.Limits.Key))
	}
	if c.Proxy.ReadOnly && len(c.Queue.Prefixes) > 0 {
		fault("queue.prefixes", "", "would keep writes that proxy.read-only refuses: leave one of the two out")
	}
	if c.Proxy.Namespace != "" && c.Mode != ModeProxy {
		fault("proxy.namespace", c.Proxy.Namespace, "needs mode proxy: a member shows all keys")
	}
	if err := verifySocket(c.Socket); err != nil && from != nil {
		fault("data-dir", c.DataDir, fmt.Sprintf("makes a socket path that %v, and set it with --socket", err))
	}
	return faults
}

// openSecrets warns of a file with a secret that any user of the machine can read. One that is not there is for the
// agent to judge: a node that has joined needs it no more.
func (c *Config) openSecrets() (warnings []string) {
	for _, f := range []struct{ key, path, power string }{
		{"token-file", c.TokenFile, "join the cluster"},
		{"seal-file", c.SealFile, "open this node's sealed keys"},
		{"cluster.ca-file", c.Cluster.CAFile, "make certificates of this cluster"},
		{"tls.key-file", c.TLS.KeyFile, "pose as this node to its clients"},
	} {
		if f.path == "" {
			continue
		}
		info, err := os.Stat(f.path)
		if err != nil || info.Mode().Perm()&0o007 == 0 {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("%s: every user of this machine may use %s (mode %04o), and with it %s: chmod 0600 it, and give it to the user that the agent runs as",
			f.key, f.path, info.Mode().Perm(), f.power))
	}
	return warnings
}

// urls yields every URL listened on, with its key.
func (c *Config) urls() func(func(key, url string) bool) {
	return func(yield func(key, url string) bool) {
		for _, u := range c.Listen {
			if !yield("listen", u) {
				return
			}
		}
		if c.MetricsListen != "" {
			yield("metrics-listen", c.MetricsListen)
		}
	}
}

// verify checks what concerns several of the settings of https.
func (t TLS) verify(fault func(key, value, problem string)) {
	switch {
	case t.CertFile != "" && t.KeyFile == "":
		fault("tls.key-file", "", "must name the key of tls.cert-file")
	case t.KeyFile != "" && t.CertFile == "":
		fault("tls.cert-file", "", "must name the certificate of tls.key-file")
	case t.CertFile != "" && t.Auto:
		fault("tls.auto", "true", "makes a certificate, and tls.cert-file names one: leave one of the two out")
	}
	if t.CRLFile != "" && t.ClientCAFile == "" {
		fault("tls.crl-file", t.CRLFile, "revokes certificates of clients, which nobody asks for: set tls.client-ca-file too")
	}
	if t.ClientAuth == "optional" && t.ClientCAFile == "" {
		fault("tls.client-auth", t.ClientAuth, "lets clients show certificates, which nothing here can judge: set tls.client-ca-file too")
	}
}
