package compat

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A script is a file of rows that are run in order against both servers. A line is one of:
//
//	# a comment
//	etcdctl put a 1             a row: both have to answer the same
//	etcdctl* get a              the same as text, JSON and fields
//	etcdctl** member list       the same, and as a table
//	L=etcdctl lease grant 60    a row whose first id is kept, as $L in later lines
//	< a line                    of the row's standard input
//	<* 1600000                  so many bytes of standard input, without a newline
//	&w etcdctl watch a          a row that goes on in the background, as w
//	until w "PUT\na\n"          waits until w has said that
//	feed w progress             gives w another line
//	stop w                      interrupts w, and compares all that it said
//	wait w                      the same for one that ends by itself
//	gap: reason                 the agent cannot do the next row; it is in the list that is printed at the end
//	says: text                  what the agent has to say to that row, beside failing
//	untested: get --flag: why   that this flag has no row
//	limit: 2m                   how long the next row may take
//	log: only                   of the next row only the exit code and what is on standard output count
//
// Words may be quoted, as in Go. $ADDR is the server's address, $DEST that of a second one of its kind, $DIR a folder,
// $$ a dollar.
type script struct {
	name     string
	rows     []row
	untested map[string]string // "get --flag" -> why
}

// row is one line, with those that belong to it.
type row struct {
	line  int
	kind  rowKind
	text  string   // as it is in the file
	words []string // of a command, without etcdctl

	job     string   // the name of a background job
	keep    string   // the variable for the first id
	formats []string // to run it in; none: as it stands
	input   string
	quiet   bool // standard error does not count
	gap     string
	says    string
	limit   time.Duration // 0: commandLimit
}

type rowKind int

const (
	runRow rowKind = iota
	startRow
	untilRow
	feedRow
	stopRow
	waitRow
)

func parseScript(path string) (*script, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &script{name: path, untested: map[string]string{}}
	var next row // what earlier lines said about the next row
	for i, line := range strings.Split(string(text), "\n") {
		if err := s.line(i+1, line, &next); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
	}
	if next.gap != "" || next.says != "" || next.quiet {
		return nil, fmt.Errorf("%s: the last line is about a row that is not there", path)
	}
	return s, nil
}

func (s *script) line(number int, line string, next *row) error {
	first, rest, _ := strings.Cut(line, " ")
	switch {
	case line == "" || strings.HasPrefix(line, "#"):
		return nil
	case first == "gap:":
		next.gap = rest
	case first == "says:":
		next.says = rest
	case line == "log: only":
		next.quiet = true
	case first == "limit:":
		var err error
		next.limit, err = time.ParseDuration(rest)
		return err
	case first == "untested:":
		what, why, ok := strings.Cut(rest, ": ")
		if !ok {
			return fmt.Errorf("no reason in %q", line)
		}
		s.untested[what] = why
	case first == "<" || first == "<*":
		return s.inputLine(first, rest)
	case first == "until" || first == "feed" || first == "stop" || first == "wait":
		r := *next
		*next = row{}
		r.line, r.text = number, line
		r.kind = map[string]rowKind{"until": untilRow, "feed": feedRow, "stop": stopRow, "wait": waitRow}[first]
		r.job, r.input, _ = strings.Cut(rest, " ")
		if strings.HasPrefix(r.input, `"`) {
			var err error
			if r.input, err = strconv.Unquote(r.input); err != nil {
				return err
			}
		}
		s.rows = append(s.rows, r)
	default:
		r := *next
		*next = row{}
		r.line, r.text = number, line
		return s.command(r, line)
	}
	return nil
}

func (s *script) inputLine(mark, rest string) error {
	if len(s.rows) == 0 {
		return fmt.Errorf("input before the first row")
	}
	r := &s.rows[len(s.rows)-1]
	if mark == "<" {
		r.input += rest + "\n"
		return nil
	}
	n, err := strconv.Atoi(rest)
	r.input += strings.Repeat("x", n)
	return err
}

func (s *script) command(r row, line string) error {
	if name, ok := strings.CutPrefix(line, "&"); ok {
		r.kind = startRow
		r.job, line, _ = strings.Cut(name, " ")
	}
	words, err := split(line)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		return fmt.Errorf("no command")
	}
	name := words[0]
	if before, after, ok := strings.Cut(name, "="); ok {
		r.keep, name = before, after
	}
	plain := strings.TrimRight(name, "*")
	r.formats = formats[:[]int{0, 3, 4}[min(len(name)-len(plain), 2)]]
	name = plain
	if name != "etcdctl" {
		return fmt.Errorf("not understood: %q", line)
	}
	r.words = words[1:]
	s.rows = append(s.rows, r)
	return nil
}

// split splits a line into words at spaces; a word in double quotes is a Go string.
func split(line string) (words []string, err error) {
	for line = strings.TrimLeft(line, " "); line != ""; line = strings.TrimLeft(line, " ") {
		if line[0] == '"' || line[0] == '`' {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("%w in %q", err, line)
			}
			word, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, err
			}
			words, line = append(words, word), line[len(quoted):]
			continue
		}
		var word string
		word, line, _ = strings.Cut(line, " ")
		words = append(words, word)
	}
	return words, nil
}
