//go:build linux

package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// command carries out one request of a client.
func (h *Hub) command(args []string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch rest := args[1:]; args[0] {
	case "set":
		return "", h.set(rest)
	case "partition", "heal":
		return "", h.cut(rest, args[0] == "partition")
	case "drop":
		n := len(h.due)
		h.due = nil
		return fmt.Sprintf("%d packets in flight dropped\n", n), nil
	case "show":
		return h.show(), nil
	case "stats":
		return h.stats(rest)
	}
	return "", fmt.Errorf("unknown command %q", args[0])
}

// set changes parameters: of all directions of a target, or of none if one of them is wrong.
func (h *Hub) set(args []string) error {
	if len(args) < 3 || len(args)%2 != 1 {
		return errors.New("set wants TARGET PARAM VALUE [PARAM VALUE]")
	}
	if args[1] == "uprate" || args[1] == "downrate" {
		return h.setAccess(args[0], args[1:])
	}
	ts, err := h.targets(args[0])
	if err != nil {
		return err
	}
	changed := make([]Params, len(ts))
	for i, t := range ts {
		changed[i] = h.links[t[0]][t[1]].P
		for n := 1; n+1 < len(args); n += 2 {
			if err := changed[i].Set(args[n], args[n+1]); err != nil {
				return err
			}
		}
	}
	now := nowNS()
	for i, t := range ts {
		h.links[t[0]][t[1]].change(changed[i], now)
	}
	return nil
}

// change gives a link new parameters. What the old ones had put off does not hold up what comes now.
func (l *Link) change(p Params, now int64) {
	if p.Rate != l.P.Rate {
		l.sh.freeAt = min(l.sh.freeAt, now+int64(100*time.Millisecond))
	}
	if p.OutUp != l.P.OutUp || p.OutDown != l.P.OutDown {
		l.outNext, l.out = 0, false
	}
	l.P = p
	l.lastAt = min(l.lastAt, now+int64(p.Delay+p.Jitter))
}

// setAccess changes the access line of a host.
func (h *Hub) setAccess(host string, args []string) error {
	i, err := h.index(host)
	if err != nil {
		return err
	}
	up, down := h.hosts[i].UpRate, h.hosts[i].DownRate
	for n := 0; n+1 < len(args); n += 2 {
		r, err := parseRate(args[n+1])
		if err != nil {
			return err
		}
		switch args[n] {
		case "uprate":
			up = r
		case "downrate":
			down = r
		default:
			return errors.New("uprate and downrate do not mix with link parameters")
		}
	}
	h.hosts[i].UpRate, h.hosts[i].DownRate = up, down
	return nil
}

// cut partitions targets or heals them. None named heals all.
func (h *Hub) cut(targets []string, cut bool) error {
	if len(targets) == 0 {
		if cut {
			return errors.New("partition wants a TARGET")
		}
		targets = []string{"all"}
	}
	var all [][2]int
	for _, t := range targets {
		ts, err := h.targets(t)
		if err != nil {
			return err
		}
		all = append(all, ts...)
	}
	for _, x := range all {
		h.links[x[0]][x[1]].P.Cut = cut
	}
	return nil
}

func (h *Hub) show() string {
	var b strings.Builder
	for _, ho := range h.hosts {
		fmt.Fprintf(&b, "%s\tnetns %s\taddr %s", ho.Name, ho.NS, ho.Addr)
		if ho.UpRate > 0 || ho.DownRate > 0 {
			fmt.Fprintf(&b, "\tuprate %gkbit downrate %gkbit", ho.UpRate/1e3, ho.DownRate/1e3)
		}
		b.WriteByte('\n')
	}
	for _, x := range h.directions(func(int, int) bool { return true }) {
		fmt.Fprintf(&b, "%s>%s\t%s\n", h.hosts[x[0]].Name, h.hosts[x[1]].Name, h.links[x[0]][x[1]].P)
	}
	return b.String()
}
