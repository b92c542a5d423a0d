package rest

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/kv"
)

// params are the query parameters of a request. Each may be given once.
type params struct {
	values url.Values
	known  []string // asked for so far; what else is there is refused by done
}

func parseParams(raw string) (params, error) {
	if raw == "" {
		return params{}, nil
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return params{}, kv.Errorf(kv.Invalid, "the query string is malformed: %w", err)
	}
	for name, given := range values {
		if len(given) > 1 {
			return params{}, kv.Errorf(kv.Invalid, "query parameter %q is given %d times; give it once", name, len(given))
		}
	}
	return params{values: values}, nil
}

// text returns a parameter and whether it is there.
func (p *params) text(name string) (string, bool) {
	if p.values == nil {
		return "", false
	}
	p.known = append(p.known, name)
	v, ok := p.values[name]
	if !ok {
		return "", false
	}
	return v[0], true
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
	for name := range p.values {
		if slices.Contains(p.known, name) {
			continue
		}
		if len(p.known) == 0 {
			return kv.Errorf(kv.Invalid, "query parameter %q is not known here; this call takes none", name)
		}
		return kv.Errorf(kv.Invalid, "query parameter %q is not known here; this call takes %s", name, strings.Join(p.known, ", "))
	}
	return nil
}
