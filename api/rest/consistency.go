package rest

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"holdfast/kv"
)

// freshness is how old an answer may be, decoded from ?consistency, Cache-Control and Holdfast-Min-Revision.
type freshness struct {
	maxAge       time.Duration
	staleIfError time.Duration
	local        bool
	minRevision  int64
	wait         time.Duration
	poll         poll
}

// How long a read waits for Holdfast-Min-Revision.
const (
	waitDefault = 5 * time.Second
	waitMax     = 5 * time.Minute
)

func (f freshness) query(op kv.Op) kv.Query {
	return kv.Query{
		Ops:          []kv.Op{op},
		MaxAge:       f.maxAge,
		StaleIfError: f.staleIfError,
		LocalOnly:    f.local,
		MinRevision:  f.minRevision,
		Wait:         f.wait,
	}
}

var (
	isLinearizable = []string{"linearizable"}
	isBounded      = []string{"bounded"}
	isLocal        = []string{"local"}
	isStale        = []string{"stale"}
)

// delivered says what an answer turned out to be, which may be more or, with auto, less than was asked for.
func (f freshness) delivered(p *kv.Page) []string {
	switch {
	case p.Age == 0:
		return isLinearizable
	case f.local:
		return isLocal
	case p.Age > 0 && p.Age <= f.maxAge:
		return isBounded
	default:
		return isStale
	}
}

// auto is what a read asks for that does not say.
func (h *Handler) auto() (f freshness) {
	f.maxAge, f.staleIfError = h.opts.Auto()
	return f
}

// parseFreshness reads all of it. ?consistency is for people and wins over the directives of Cache-Control that say the
// same; stale-if-error has no parameter and counts with auto and bounded alike.
func (h *Handler) parseFreshness(p *params, header http.Header) (freshness, error) {
	return h.parseFresh(p, header, false)
}

// parseFresh is parseFreshness for a read that can also wait for a change, if polls is set.
func (h *Handler) parseFresh(p *params, header http.Header, polls bool) (freshness, error) {
	f := h.auto()
	cc, err := parseCacheControl(header["Cache-Control"])
	if err != nil {
		return f, err
	}
	if err := f.setConsistency(p, cc); err != nil {
		return f, err
	}
	err = f.setMinRevision(p, header, polls)
	return f, err
}

func (f *freshness) setConsistency(p *params, cc cacheControl) error {
	mode, explicit := p.text("consistency")
	age, hasAge, err := p.duration("max_staleness")
	if err != nil {
		return err
	}
	if hasAge && mode != "bounded" {
		return kv.Errorf(kv.Invalid, "max_staleness goes with consistency=bounded")
	}
	if !explicit {
		mode, age = cc.mode, cc.maxAge
	}
	switch mode {
	case "auto":
		if cc.staleIfError >= 0 {
			f.staleIfError = cc.staleIfError
		}
	case "linearizable":
		f.maxAge, f.staleIfError = 0, 0
	case "bounded":
		if explicit && !hasAge {
			return kv.Errorf(kv.Invalid, "consistency=bounded needs max_staleness, as in consistency=bounded&max_staleness=5s")
		}
		f.maxAge, f.staleIfError = age, max(0, cc.staleIfError)
	case "local":
		f.maxAge, f.staleIfError, f.local = age, 0, true
		if explicit {
			f.maxAge = kv.Unlimited
		}
	default:
		return kv.Errorf(kv.Invalid, "consistency=%q is not one of linearizable, bounded, local and auto", mode)
	}
	return nil
}

// setMinRevision reads what a read waits for: a revision, or, where it can, a change.
func (f *freshness) setMinRevision(p *params, header http.Header, polls bool) error {
	wait, hasWait, err := p.duration("wait")
	if err != nil {
		return err
	}
	if wait > waitMax {
		return kv.Errorf(kv.Invalid, "wait=%v is longer than %v", wait, waitMax)
	}
	lines := header["Holdfast-Min-Revision"]
	if polls {
		if f.poll, err = parsePoll(p, wait, hasWait); err != nil || f.poll.asked && len(lines) == 0 {
			return err
		}
	}
	switch {
	case f.poll.asked:
		return kv.Errorf(kv.Invalid, "the parameter index and the header Holdfast-Min-Revision both wait; give one of them")
	case len(lines) == 0 && !hasWait:
		return nil
	case len(lines) == 0 && polls:
		return kv.Errorf(kv.Invalid, "wait goes with the parameter index, or with the header Holdfast-Min-Revision")
	case len(lines) == 0:
		return kv.Errorf(kv.Invalid, "wait goes with the header Holdfast-Min-Revision")
	}
	n, err := strconv.ParseInt(lines[0], 10, 64)
	if err != nil || n < 1 || len(lines) > 1 {
		return kv.Errorf(kv.Invalid, "Holdfast-Min-Revision %q is not a revision", strings.Join(lines, ", "))
	}
	f.minRevision, f.wait = n, waitDefault
	if hasWait {
		f.wait = wait
	}
	return nil
}

// cacheControl is what a request's Cache-Control (RFC 9111, 5.2.1; stale-if-error: RFC 5861) asks for.
type cacheControl struct {
	mode         string        // in the words of ?consistency
	maxAge       time.Duration // for bounded and local
	staleIfError time.Duration // -1 if not given
}

func parseCacheControl(lines []string) (cacheControl, error) {
	cc := cacheControl{mode: "auto", maxAge: -1, staleIfError: -1}
	var noCache, onlyIfCached bool
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
			var err error
			switch strings.ToLower(name) {
			case "no-cache":
				noCache = true
			case "only-if-cached":
				onlyIfCached = true
			case "max-age":
				cc.maxAge, err = deltaSeconds(name, value)
			case "stale-if-error":
				cc.staleIfError, err = deltaSeconds(name, value)
			}
			if err != nil {
				return cc, err
			}
		}
	}
	switch {
	case onlyIfCached && noCache:
		return cc, kv.Errorf(kv.Invalid, "Cache-Control asks for no-cache and only-if-cached; one excludes the other")
	case onlyIfCached:
		cc.mode = "local"
		if cc.maxAge < 0 {
			cc.maxAge = kv.Unlimited
		}
	case noCache:
		cc.mode = "linearizable"
	case cc.maxAge >= 0:
		cc.mode = "bounded"
	}
	return cc, nil
}

// deltaSeconds reads a number of seconds; one beyond 2^31 is as good as that (RFC 9111, 1.2.2).
func deltaSeconds(name, value string) (time.Duration, error) {
	n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, kv.Errorf(kv.Invalid, "Cache-Control: %s=%q is not a number of seconds", name, value)
	}
	return time.Duration(min(n, 1<<31)) * time.Second, nil
}
