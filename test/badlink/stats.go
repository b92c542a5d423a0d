//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// lateness is by how much packets were delivered after they were due: the hub's own part in what is measured over it.
type lateness struct {
	buckets [24]uint64 // log2 of microseconds
	max     int64      // ns
}

func (l *lateness) add(ns int64) {
	l.max = max(l.max, ns)
	k := 0
	for v := ns / 1000; v > 0 && k < len(l.buckets)-1; v >>= 1 {
		k++
	}
	l.buckets[k]++
}

// quantile is an upper bound in microseconds, 0 of none.
func (l *lateness) quantile(q float64) int64 {
	var total, sum uint64
	for _, n := range l.buckets {
		total += n
	}
	if total == 0 {
		return 0
	}
	for k, n := range l.buckets {
		if sum += n; float64(sum) >= q*float64(total) {
			return 1 << k
		}
	}
	return 0
}

// stats reports what was carried and what was not.
func (h *Hub) stats(flags []string) (out string, err error) {
	for _, f := range flags {
		if !slices.Contains([]string{"--json", "--all", "--reset"}, f) {
			return "", fmt.Errorf("stats: what is %q?", f)
		}
	}
	if slices.Contains(flags, "--json") {
		if out, err = h.statsJSON(); err != nil {
			return "", err
		}
	} else {
		out = h.statsTable(slices.Contains(flags, "--all"))
	}
	if slices.Contains(flags, "--reset") {
		h.resetStats()
	}
	return out, nil
}

func (h *Hub) resetStats() {
	for _, row := range h.links {
		for _, l := range row {
			if l != nil {
				l.S = Stats{}
			}
		}
	}
	for _, ho := range h.hosts {
		ho.UpDrop, ho.DownDrop = 0, 0
	}
	h.late, h.unroutable, h.writeErr = lateness{}, 0, 0
}

func (h *Hub) statsTable(all bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-14s %9s %12s %9s %12s %7s %7s %7s %6s %6s %6s %9s\n",
		"link", "in_pkts", "in_bytes", "out_pkts", "out_bytes", "lost", "qdrop", "cut", "mtu", "dup", "reord", "maxq_ms")
	for _, x := range h.directions(func(int, int) bool { return true }) {
		s := h.links[x[0]][x[1]].S
		if s.InPkts == 0 && !all {
			continue
		}
		fmt.Fprintf(&b, "%-14s %9d %12d %9d %12d %7d %7d %7d %6d %6d %6d %9.1f\n", h.hosts[x[0]].Name+">"+h.hosts[x[1]].Name,
			s.InPkts, s.InBytes, s.OutPkts, s.OutBytes, s.Lost, s.QueueDrop, s.CutDrop, s.MTUDrop, s.Dup, s.Reordered, float64(s.MaxQueueUS)/1e3)
	}
	for _, ho := range h.hosts {
		if ho.UpDrop+ho.DownDrop > 0 {
			fmt.Fprintf(&b, "%s access line: %d dropped up, %d dropped down\n", ho.Name, ho.UpDrop, ho.DownDrop)
		}
	}
	fmt.Fprintf(&b, "emulator lateness us: p50<=%d p99<=%d p99.9<=%d max=%d; in flight %d, unroutable %d, write errors %d\n",
		h.late.quantile(.5), h.late.quantile(.99), h.late.quantile(.999), h.late.max/1000, len(h.due), h.unroutable, h.writeErr)
	return b.String()
}

func (h *Hub) statsJSON() (string, error) {
	type linkJSON struct {
		Link   string
		Params Params
		Stats
	}
	v := struct {
		Links      []linkJSON
		Unroutable uint64
		WriteErr   uint64
		InFlight   int
		LateP50US  int64
		LateP99US  int64
		LateP999US int64
		LateMaxUS  int64
		UptimeSec  float64
	}{
		Unroutable: h.unroutable, WriteErr: h.writeErr, InFlight: len(h.due),
		LateP50US: h.late.quantile(.5), LateP99US: h.late.quantile(.99), LateP999US: h.late.quantile(.999),
		LateMaxUS: h.late.max / 1000, UptimeSec: time.Since(h.start).Seconds(),
	}
	for _, x := range h.directions(func(int, int) bool { return true }) {
		l := h.links[x[0]][x[1]]
		v.Links = append(v.Links, linkJSON{h.hosts[x[0]].Name + ">" + h.hosts[x[1]].Name, l.P, l.S})
	}
	b, err := json.MarshalIndent(v, "", " ")
	return string(b) + "\n", err
}
