package compat

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// diffsMax is after how many differences a script is given up: they follow from each other.
const diffsMax = 40

// slowRow is from where on the time that a row took is logged.
const slowRow = 2 * time.Second

// formats are the output formats of etcdctl that a person or a script reads. Few commands have the last.
var formats = []string{"simple", "json", "fields", "table"}

// runner runs one script on a pair.
type runner struct {
	*pair
	t        *testing.T
	script   *script
	commands commands
	gaps     *gapList
	diffs    int
}

// gapList is what the agent cannot do, for the reader of the test's output.
type gapList struct {
	mu   sync.Mutex
	list []string
}

func (g *gapList) add(what, why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if line := fmt.Sprintf("%-34s %s", what, why); !slices.Contains(g.list, line) {
		g.list = append(g.list, line)
	}
}

func (g *gapList) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	slices.Sort(g.list)
	return strings.Join(g.list, "\n")
}

func (r *runner) run() {
	for _, row := range r.script.rows {
		if r.diffs >= diffsMax {
			r.t.Fatalf("%s: given up after %d differences", r.script.name, r.diffs)
		}
		if len(row.formats) == 0 {
			r.row(row)
			continue
		}
		for _, f := range row.formats {
			one := row
			one.words = append([]string{"-w", f}, row.words...)
			one.text += " (-w " + f + ")"
			r.row(one)
		}
	}
}

// row runs one row on both sides.
func (r *runner) row(row row) {
	answers := map[*side]*answer{r.etcd: {}, r.subject: {}}
	began := time.Now()
	defer func() {
		if took := time.Since(began); took > slowRow {
			r.t.Logf("%s:%d: %s: took %v", r.script.name, row.line, row.text, took.Round(time.Millisecond))
		}
	}()
	etcdErr, subjectErr := r.both(func(s *side) (err error) {
		into := answers[s]
		s.turn()
		if row.kind == runRow {
			*into, err = s.run(r.t.Context(), row.words, row.input, row.limit)
			return err
		}
		if row.kind == startRow {
			return s.launch(r.t, row.job, row.words, row.input)
		}
		j := s.jobs[row.job]
		if j == nil {
			return fmt.Errorf("no job %q", row.job)
		}
		switch row.kind {
		case untilRow:
			text, err := s.expand(row.input)
			if err != nil {
				return err
			}
			return j.until(text)
		case feedRow:
			text, err := s.expand(row.input)
			if err != nil {
				return err
			}
			return j.feed(text + "\n")
		}
		*into, err = j.end(row.kind == stopRow)
		return err
	})
	if etcdErr != nil {
		r.t.Fatalf("%s:%d: %s\netcd: %v", r.script.name, row.line, row.text, etcdErr)
	}
	if subjectErr != nil {
		r.differ(row, fmt.Sprintf("  + %s: %v\n", r.subject.name, subjectErr))
		return
	}
	if row.kind != runRow && row.kind != stopRow && row.kind != waitRow {
		return
	}
	if row.keep != "" {
		r.keep(row, *answers[r.etcd], *answers[r.subject])
	}
	r.compare(row, *answers[r.etcd], *answers[r.subject])
}

func (r *runner) compare(row row, etcd, subject answer) {
	path := r.commands.path(row.words)
	if row.kind == stopRow || row.kind == waitRow {
		path = r.commands.path(r.started(row.job))
	}
	whole := func(s *side, a answer) string {
		if row.quiet {
			a.stderr = ""
		}
		if path == "check perf" && a.code == 1 {
			a.code = 0 // it was slow, on a machine that may be
		}
		text := s.normal(path, a.stdout)
		if a.stderr != "" {
			text += "standard error:\n" + s.normal(path, a.stderr)
		}
		return fmt.Sprintf("%sexit code %d\n", text, a.code)
	}
	a, b := whole(r.etcd, etcd), whole(r.subject, subject)
	d := diff(a, b)
	if row.gap == "" {
		if d != "" {
			r.differ(row, d)
		}
		return
	}
	if r.subject.name != "agent" {
		return // etcd has no gaps
	}
	r.gaps.add(path, row.gap)
	switch {
	case d == "":
		r.differ(row, "  the gap is closed: take its mark away\n")
	case row.says == "" || !strings.Contains(b, row.says):
		r.differ(row, fmt.Sprintf("  a gap has to say %q\n%s", row.says, d))
	}
}

// started is the command of a job.
func (r *runner) started(name string) []string {
	for _, row := range slices.Backward(r.script.rows) {
		if row.kind == startRow && row.job == name {
			return row.words
		}
	}
	return nil
}

func (r *runner) differ(row row, what string) {
	r.diffs++
	r.t.Errorf("%s:%d: %s\n%s", r.script.name, row.line, row.text, what)
}

var firstID = regexp.MustCompile(`\b[0-9a-f]{13,16}\b`)

// keep keeps the first id of each side's answer.
func (r *runner) keep(row row, etcd, subject answer) {
	for s, a := range map[*side]answer{r.etcd: etcd, r.subject: subject} {
		if s.vars[row.keep] = firstID.FindString(a.stdout); s.vars[row.keep] == "" {
			s.vars[row.keep] = "none"
			r.t.Errorf("%s:%d: %s: no id in what %s said: %s%s", r.script.name, row.line, row.text, s.name, a.stdout, a.stderr)
		}
	}
}
