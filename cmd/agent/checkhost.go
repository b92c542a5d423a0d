package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/api"
	"holdfast/config"
)

// What the checks of the machine hold for right. Each is explained where it is told.
const (
	diskFreeMin     = 256 << 20 // store.disk-reserve
	diskSlow        = 50 * time.Millisecond
	diskTooSlow     = 500 * time.Millisecond // half the election timeout, below which a leader cannot stay one
	diskTries       = 8
	certificateSoon = 7 * 24 * time.Hour
	mtuMin          = 1280 // QUIC's 1200 bytes, with UDP's and IPv6's headers
	udpBuffer       = 7_500_000
	udpWait         = time.Second
	udpTries        = 3
)

// clockFirst is a time that is past for every copy of this program.
var clockFirst = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// checkPermissions finds keys and data that others on this machine may read.
func checkPermissions(_ context.Context, u *checkup) finding {
	dir := u.loaded.Config.DataDir
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return skip("%s is not there yet", dir)
	case err != nil:
		return skip("%v", err)
	case info.Mode().Perm()&0o077 != 0:
		return fail(fmt.Sprintf("%s has mode %04o: others may read what is in it", dir, info.Mode().Perm()), "chmod 700 "+dir)
	}
	// The dir keeps others out already; keys are closed by themselves, for when one is copied.
	var open []string
	err = filepath.WalkDir(filepath.Join(dir, "identity"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			open = append(open, path)
		}
		return ignoreGone(err)
	})
	switch {
	case err != nil:
		return skip("%v: run it as root or the agent's user", err)
	case len(open) > 0:
		return fail("others may read "+strings.Join(open, ", "), "chmod -R go-rwx "+dir)
	}
	return ok("%s is its owner's alone", dir)
}

// sealMark is what a sealed file begins with (internal/atrest).
const sealMark = "-----BEGIN HOLDFAST SEALED-----"

// checkSeal looks at the identity and at the secret that it is to be sealed with, as far as it is named where this runs: a unit's
// credentials are there for the agent alone.
func checkSeal(_ context.Context, u *checkup) finding {
	path, secret := filepath.Join(u.loaded.Config.DataDir, "identity", "node.pem"), u.loaded.Config.SealFile
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return skip("%s is not there yet", path)
	case err != nil:
		return skip("%v: run it as root or the agent's user", err)
	}
	sealed := strings.HasPrefix(string(text), sealMark)
	if secret != "" {
		if _, err := os.Stat(secret); err != nil {
			return fail(fmt.Sprintf("seal-file: %v", err), "bring the secret back: without it the agent does not start")
		}
	}
	switch {
	case sealed:
		return ok("%s is sealed", path)
	case secret != "":
		return warn(path+" is not sealed yet", "restart the agent: it seals its keys when it starts")
	}
	return skip("%s is not sealed: whoever has the disk is this node until it is revoked; systemd/README.md has how to seal it with a TPM", path)
}

// ignoreGone forgives a file that an agent at work has taken away.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// existing is the dir, or the nearest one above it that is there.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func checkSpace(_ context.Context, u *checkup) finding {
	dir := existing(u.loaded.Config.DataDir)
	free, size, err := diskSpace(dir)
	switch {
	case err != nil:
		return skip("%v", err)
	case free < min(diskFreeMin, size/8):
		return fail(fmt.Sprintf("%d MiB free of %d MiB at %s: writes are refused", free>>20, size>>20, dir),
			"make room: journalctl --vacuum-size=50M, old images and packages, and agent kv del of what nobody needs (deletes are taken until the very last is used up)")
	case free < size/10:
		return warn(fmt.Sprintf("%d MiB free of %d MiB at %s", free>>20, size>>20, dir), "make room before writes are refused, which they are below store.disk-reserve")
	}
	return ok("%d MiB free of %d MiB at %s", free>>20, size>>20, dir)
}

// checkSpeed writes and syncs as the log does, a few times.
func checkSpeed(ctx context.Context, u *checkup) (found finding) {
	dir := existing(u.loaded.Config.DataDir)
	file, err := os.CreateTemp(dir, ".check-")
	if err != nil {
		return skip("%v: run it as root or the agent's user", err)
	}
	defer func() {
		if err := errors.Join(file.Close(), os.Remove(file.Name())); err != nil && found.State == checkOK {
			found = warn(err.Error(), "remove "+file.Name())
		}
	}()
	block := make([]byte, 4096)
	var took []time.Duration
	for i := 0; i < diskTries && ctx.Err() == nil; i++ {
		from := time.Now()
		if _, err := file.Write(block); err != nil {
			return fail(err.Error(), "see disk-space; a disk that fails shows in dmesg")
		}
		if err := file.Sync(); err != nil {
			return fail(err.Error(), "the disk does not keep what is written: see dmesg, and replace it")
		}
		took = append(took, time.Since(from))
	}
	if len(took) == 0 {
		return skip("interrupted")
	}
	slices.Sort(took)
	middle, worst := took[len(took)/2].Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond)
	text := fmt.Sprintf("4 KiB are durable after %v, at worst %v", middle, worst)
	switch {
	case middle > diskTooSlow:
		return fail(text, "a leader on this disk cannot stay one: use another disk, or run this box as a proxy (agent demote)")
	case middle > diskSlow:
		return warn(text, "every write waits that long; industrial cards and SSDs take 1 to 10 ms")
	}
	return ok("%s", text)
}

func checkClock(context.Context, *checkup) finding {
	now := time.Now()
	if now.Before(clockFirst) {
		return fail("it is "+now.UTC().Format(time.DateTime)+" here, before this program was made",
			"data and certificates are safe (both go by the cluster's time); set the clock, and enable NTP or a battery: timedatectl set-ntp true")
	}
	if synced, known := clockSynced(); known && !synced {
		return warn("nothing keeps the clock right", "timedatectl set-ntp true; until then the times that people see may be wrong, nothing else")
	}
	return ok("%s", now.UTC().Format(time.DateTime)+" UTC")
}

func checkCertificate(ctx context.Context, u *checkup) finding {
	if u.status == nil {
		return skip("no agent answers")
	}
	a, err := u.client.do(ctx, call{method: http.MethodGet, path: certPath})
	if err != nil {
		return skip("%v", err)
	}
	var c api.CertificateInfo
	switch err := json.Unmarshal(a.body, &c); {
	case err != nil:
		return skip("%v", err)
	case !c.Joined || c.Until == nil:
		return skip("there is none: this node has not joined a cluster")
	}
	left := c.Until.Sub(c.Judged)
	until := "good until " + c.Until.UTC().Format(time.DateTime)
	switch {
	case left < 0:
		return fail("ended "+c.Until.UTC().Format(time.DateTime), "it renews itself when a member is reached, up to a year after its end: see udp and uplink, then agent cert renew")
	case left < certificateSoon:
		return warn(until+", and should have renewed itself", "see udp and uplink, then agent cert renew")
	}
	return ok("%s", until)
}

// checkPorts tries to listen where an agent would, unless one does.
func checkPorts(ctx context.Context, u *checkup) finding {
	if u.status != nil {
		return ok("the agent listens on %s", strings.Join(u.status.Listen, ", "))
	}
	for _, text := range u.loaded.Config.Listen {
		at, err := config.ParseURL(text)
		if err != nil || at.Network != "tcp" {
			continue
		}
		l, err := new(net.ListenConfig).Listen(ctx, at.Network, at.Address)
		if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
			continue // no IPv6, or no such address yet: the agent says so itself
		}
		if err != nil {
			return fail(err.Error(), "ss -ltnp says who has it: stop that, or change listen")
		}
		_ = l.Close() // nothing was sent
	}
	c, err := new(net.ListenConfig).ListenPacket(ctx, "udp", u.loaded.Config.PeerListen)
	if err != nil {
		return fail(err.Error(), "ss -lunp says who has it: stop that, or change peer-listen")
	}
	_ = c.Close() // nothing was sent
	return ok("%s and UDP %s are free", strings.Join(u.loaded.Config.Listen, ", "), u.loaded.Config.PeerListen)
}

func checkMTU(context.Context, *checkup) finding {
	all, err := net.Interfaces()
	if err != nil {
		return skip("%v", err)
	}
	var seen []string
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		if i.MTU < mtuMin {
			return fail(fmt.Sprintf("%s has %d bytes", i.Name, i.MTU), fmt.Sprintf("QUIC needs %d: ip link set %s mtu %d, or have the tunnel do so", mtuMin, i.Name, mtuMin))
		}
		seen = append(seen, fmt.Sprintf("%s %d", i.Name, i.MTU))
	}
	if len(seen) == 0 {
		return warn("no interface is up", "a lone node needs none; ip link shows what there is")
	}
	return ok("%s", strings.Join(seen, ", "))
}

func checkBuffers(context.Context, *checkup) finding {
	var small []string
	for _, name := range []string{"rmem_max", "wmem_max"} {
		text, err := os.ReadFile("/proc/sys/net/core/" + name)
		if err != nil {
			return skip("%v", err)
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && n < udpBuffer {
			small = append(small, fmt.Sprintf("net.core.%s is %d", name, n))
		}
	}
	if len(small) > 0 {
		return warn(strings.Join(small, ", "), fmt.Sprintf("bursts lose packets: sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d (the packages' /usr/lib/sysctl.d/60-holdfast.conf does it at boot)", udpBuffer, udpBuffer))
	}
	return ok("as large as QUIC wants them")
}

// checkUDP asks the nodes that this one joins through, or is linked to, for the versions of QUIC that they speak: the one
// question that anybody may put (RFC 9000, section 6).
func checkUDP(ctx context.Context, u *checkup) finding {
	addresses := slices.Clone(u.loaded.Config.Join)
	if u.status != nil {
		for _, l := range u.status.Links {
			if l.Address != "" {
				addresses = append(addresses, l.Address)
			}
		}
	}
	slices.Sort(addresses)
	addresses = slices.Compact(addresses)
	if len(addresses) == 0 {
		return skip("no other node is known here")
	}
	var silent []string
	for _, address := range addresses {
		if strings.HasPrefix(address, "srv:") {
			continue
		}
		if err := probeQUIC(ctx, address); err != nil {
			silent = append(silent, fmt.Sprintf("%s: %v", address, err))
		}
	}
	if len(silent) == 0 {
		return ok("%s answer", strings.Join(addresses, ", "))
	}
	one := warn(strings.Join(silent, "; "), "let UDP out to that port and its answers back in, and see that the node runs there; a peer behind NAT cannot be asked, and need not be")
	if len(silent) == len(addresses) {
		one.State = checkFail
	}
	return one
}

// probeQUIC sends a packet of a version that nobody speaks, and waits for the answer that says so.
func probeQUIC(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	packet := make([]byte, 1200)                                 // less is not answered
	copy(packet, "\xc0\x1a\x2a\x3a\x4a\x08holdfast\x08checking") // long header, a reserved version, two connection ids
	buf := make([]byte, 1500)
	for range udpTries {
		if _, err := conn.Write(packet); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(udpWait)); err != nil {
			return err
		}
		n, err := conn.Read(buf)
		if err == nil && n > 5 && string(buf[1:5]) == "\x00\x00\x00\x00" {
			return nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return errors.New("no answer")
}
