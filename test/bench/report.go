package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"
)

// record is one measurement: of one contender, in one round, all values by name with their unit in it.
type record struct {
	Suite     string             `json:"suite"`
	What      string             `json:"what"`
	Contender string             `json:"contender"`
	Clients   int                `json:"clients,omitempty"`
	Round     int                `json:"round"`
	Values    map[string]float64 `json:"values"`
}

// cell is what records are of, the round apart.
type cell struct {
	suite, what, contender string
	clients                int
}

// report collects the records and writes the tables.
type report struct {
	Machine  machine           `json:"machine"`
	Begun    time.Time         `json:"begun"`
	Versions map[string]string `json:"versions"`
	Command  []string          `json:"command"`
	Records  []record          `json:"records"`

	out io.Writer
	err error // the first of writing
}

func newReport(out io.Writer, m machine, set []*system) *report {
	r := &report{Machine: m, Begun: time.Now().UTC().Truncate(time.Second), Versions: map[string]string{}, Command: os.Args[1:], out: out}
	r.print("# Bench, %s\n\n", r.Begun.Format(time.RFC3339))
	r.print("%s, %d cores, Linux %s, %s, data on %s; the load generator runs on the same cores.\n", m.CPU, m.Cores, m.Kernel, m.Go, m.Filesystem)
	r.print("The disk alone: 4 KiB append and fdatasync p50 %.3f ms, p99 %.3f ms.\n\n", m.SyncP50, m.SyncP99)
	for _, s := range set {
		r.Versions[s.name] = s.version
		r.print("* %s: %s\n", s.name, s.version)
	}
	r.print("\nFlags: `%s`. Figures are medians of the rounds; spread is (highest - lowest) / median. Ratios count, absolute figures drift.\n",
		strings.Join(r.Command, " "))
	return r
}

func (r *report) print(format string, args ...any) {
	if _, err := fmt.Fprintf(r.out, format, args...); err != nil && r.err == nil {
		r.err = fmt.Errorf("write the report: %w", err)
	}
}

func (r *report) add(c cell, round int, values map[string]float64) {
	r.Records = append(r.Records, record{c.suite, c.what, c.contender, c.clients, round, values})
}

// series is one value of a cell over the rounds.
func (r *report) series(c cell, name string) []float64 {
	var s []float64
	for _, x := range r.Records {
		if (cell{x.Suite, x.What, x.Contender, x.Clients}) == c {
			if v, ok := x.Values[name]; ok {
				s = append(s, v)
			}
		}
	}
	return s
}

// figure is a value of a cell as the tables show it: "-" where it was not taken.
func (r *report) figure(c cell, name string, format func(float64) string) string {
	f := figureOf(r.series(c, name))
	if f.n == 0 {
		return "-"
	}
	return format(f.median)
}

func (r *report) table(title string, head []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	r.print("\n## %s\n\n| %s |\n|%s\n", title, strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, row := range rows {
		r.print("| %s |\n", strings.Join(row, " | "))
	}
}

// claim is a ratio with what it should be: at least, or with less set at most. A target of 0 is a claim without one.
type claim struct {
	what         string
	num, den     cell
	value        string
	target, must float64
	less         bool
}

// claims writes the table of those whose both sides were measured.
func (r *report) claims(title string, list []claim) {
	var rows [][]string
	for _, c := range list {
		f := ratioOf(r.series(c.num, c.value), r.series(c.den, c.value))
		if f.n == 0 {
			continue
		}
		rows = append(rows, []string{
			c.what, fmt.Sprintf("%.2f", f.median), fmt.Sprintf("%.2f to %.2f", f.low, f.high), c.wanted(), c.verdict(f.median),
		})
	}
	r.table(title, []string{"ratio", "median", "over the rounds", "target / must", ""}, rows)
}

func (c claim) wanted() string {
	if c.target == 0 {
		return "-"
	}
	sign := "&ge;"
	if c.less {
		sign = "&le;"
	}
	return fmt.Sprintf("%s %.4g / %.4g", sign, c.target, c.must)
}

func (c claim) verdict(v float64) string {
	met := func(bound float64) bool { return c.less && v <= bound || !c.less && v >= bound }
	switch {
	case c.target == 0:
		return ""
	case met(c.target):
		return "target met"
	case met(c.must):
		return "must met"
	default:
		return "**missed**"
	}
}

// finish looks at the disk again: if it changed its pace, so may have the figures.
func (r *report) finish(dir string) error {
	var err error
	if r.Machine.EndP50, r.Machine.EndP99, err = probe(dir); err != nil {
		return err
	}
	r.print("\nThe disk alone, at the end: p50 %.3f ms, p99 %.3f ms. Took %v.\n", r.Machine.EndP50, r.Machine.EndP99,
		time.Since(r.Begun).Round(time.Second))
	return r.err
}

// save writes everything as JSON; an empty path is not asked for.
func (r *report) save(path string) error {
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// How values are written in the tables.

func whole(v float64) string     { return fmt.Sprintf("%.0f", v) }
func hundredth(v float64) string { return fmt.Sprintf("%.2f", v) }
func percent(v float64) string   { return fmt.Sprintf("%.2f %%", 100*v) }

func share(v float64) string { return fmt.Sprintf("%.0f %%", 100*v) }

func sized(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e6:
		return fmt.Sprintf("%.1f MB", v/1e6)
	case a >= 1e3:
		return fmt.Sprintf("%.2f kB", v/1e3)
	default:
		return fmt.Sprintf("%.0f B", v)
	}
}
