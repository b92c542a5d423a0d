package rest

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"holdfast/kv"
)

// params are the query parameters of a request. Each may be given once. They are kept without a map: most requests have one
// or none, and it is the path of a cached GET.
type params struct {
	few   [4]param
	n     int     // of few
	more  []param // what did not fit
	known [16]string
	asked int // of known: the names asked for so far; what else is there is refused by done
}

type param struct {
	name, value string
	known       bool // it was asked for
}

func parseParams(raw string) (p params, err error) {
	for rest := raw; rest != ""; {
		var one string
		if one, rest, _ = strings.Cut(rest, "&"); one == "" {
			continue
		}
		if strings.Contains(one, ";") {
			return p, kv.Errorf(kv.Invalid, "the query string is malformed: a semicolon separates nothing; write it as %%3B")
		}
		name, value, _ := strings.Cut(one, "=")
		if name, err = url.QueryUnescape(name); err == nil {
			value, err = url.QueryUnescape(value)
		}
		if err != nil {
			return p, kv.Errorf(kv.Invalid, "the query string is malformed: %w", err)
		}
		if p.find(name) != nil {
			return p, kv.Errorf(kv.Invalid, "query parameter %q is given more than once; give it once", name)
		}
		if p.n < len(p.few) {
			p.few[p.n] = param{name: name, value: value}
			p.n++
		} else {
			p.more = append(p.more, param{name: name, value: value})
		}
	}
	return p, nil
}

func (p *params) find(name string) *param {
	for i := range p.n {
		if p.few[i].name == name {
			return &p.few[i]
		}
	}
	for i := range p.more {
		if p.more[i].name == name {
			return &p.more[i]
		}
	}
	return nil
}

// text returns a parameter and whether it is there.
func (p *params) text(name string) (string, bool) {
	if p.n == 0 {
		return "", false
	}
	if p.asked < len(p.known) {
		p.known[p.asked] = name
		p.asked++
	}
	one := p.find(name)
	if one == nil {
		return "", false
	}
	one.known = true
	return one.value, true
}

// flag reads a parameter that is on when it is there: ?prefix, ?prefix=true or ?prefix=1.
func (p *params) flag(name string) (bool, error) {
	v, ok := p.text(name)
	if !ok {
		return false, nil
	}
	switch v {
	case "", "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, kv.Errorf(kv.Invalid, "query parameter %s=%q is neither true nor false", name, v)
}

// number reads a whole number of at least least; absent is 0.
func (p *params) number(name string, least int64) (int64, error) {
	v, ok := p.text(name)
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < least {
		return 0, kv.Errorf(kv.Invalid, "query parameter %s=%q is not a whole number of at least %d", name, v, least)
	}
	return n, nil
}

// duration reads a time such as 500ms, 5s or 2m, a bare number being seconds.
func (p *params) duration(name string) (time.Duration, bool, error) {
	v, ok := p.text(name)
	if !ok {
		return 0, false, nil
	}
	d, err := time.ParseDuration(v)
	if n, numeric := strconv.ParseInt(v, 10, 32); numeric == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return 0, true, kv.Errorf(kv.Invalid, "query parameter %s=%q is not a duration such as 500ms, 5s or 2m", name, v)
	}
	return d, true, nil
}

// done refuses what nobody asked for: a misspelt parameter must not pass for a weaker request.
func (p *params) done() error {
	for _, all := range [2][]param{p.few[:p.n], p.more} {
		for i := range all {
			switch one := &all[i]; {
			case one.known:
			case p.asked == 0:
				return kv.Errorf(kv.Invalid, "query parameter %q is not known here; this call takes none", one.name)
			default:
				return kv.Errorf(kv.Invalid, "query parameter %q is not known here; this call takes %s", one.name, strings.Join(p.known[:p.asked], ", "))
			}
		}
	}
	return nil
}
