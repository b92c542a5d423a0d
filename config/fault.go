package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Fault is one thing wrong with the settings. Load and Validate join all that they find.
type Fault struct {
	Key     string // the setting as written in a file, or what was written instead of one
	Value   string // what it was set to; empty for a secret and for an unknown name
	Origin  Origin // where it was set
	Problem string // what is wrong, and what would be right
	Err     error  // cause, where the system gave one
}

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }

func (f *Fault) Error() string {
	var b strings.Builder
	b.WriteString("config: ")
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	if f.Value != "" {
		b.WriteString(quote(f.Value) + " ")
	}
	b.WriteString(f.Problem)
	if at := f.Origin.String(); at != "" && f.Origin.Layer != LayerDefault {
		b.WriteString(" (" + at + ")")
	}
	return b.String()
}

// Faults returns the faults that err joins, in the order found.
func Faults(err error) []*Fault {
	var all []*Fault
	switch e := err.(type) { //nolint:errorlint // it walks the tree of errors itself
	case *Fault:
		return []*Fault{e}
	case interface{ Unwrap() []error }:
		for _, sub := range e.Unwrap() {
			all = append(all, Faults(sub)...)
		}
	case interface{ Unwrap() error }:
		all = Faults(e.Unwrap())
	}
	return all
}

// join is errors.Join for faults. None is nil.
func join(faults []*Fault) error {
	errs := make([]error, len(faults))
	for i, f := range faults {
		errs[i] = f
	}
	return errors.Join(errs...)
}

// Layer is a kind of place that settings come from.
type Layer int

// The layers, the weakest first.
const (
	LayerDefault Layer = iota
	LayerFile
	LayerEnvironment
	LayerFlag
)

// Origin is where a value was set. The zero Origin is the built-in default.
type Origin struct {
	Layer Layer
	Name  string // path of the file, name of the variable, or name of the flag with its dashes
	Line  int    // line in the file, 0 if not known
}

func (o Origin) String() string {
	switch o.Layer {
	case LayerFile:
		if o.Line > 0 {
			return fmt.Sprintf("%s:%d", o.Name, o.Line)
		}
		return o.Name
	case LayerEnvironment:
		return "environment " + o.Name
	case LayerFlag:
		return "flag " + o.Name
	default:
		return "default"
	}
}

// MarshalText is for `config show -o json`.
func (o Origin) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Provenance is where the value of each key came from. A key that is not in it has its default.
type Provenance map[string]Origin

// quotedMax keeps a message readable when a whole file ended up in a value.
const quotedMax = 120

func quote(value string) string {
	if len(value) > quotedMax {
		return strconv.Quote(strings.ToValidUTF8(value[:quotedMax], "")) + "..."
	}
	return strconv.Quote(value)
}
