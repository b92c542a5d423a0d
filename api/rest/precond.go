package rest

import (
	"net/http"
	"strconv"
	"strings"

	"holdfast/kv"
)

// tagsMax bounds the entity tags of one If-Match or If-None-Match.
const tagsMax = 32

// precond is what If-Match and If-None-Match ask of a key (RFC 9110, 13.1). A key's entity tag is its mod revision in
// quotes, a strong one.
type precond struct {
	match     tags
	noneMatch tags
}

// tags is a list of entity tags, or the star.
type tags struct {
	given     bool
	any       bool    // the star
	revisions []int64 // those that can be a tag of ours; others match nothing
}

func (t tags) has(revision int64) bool {
	for _, r := range t.revisions {
		if r == revision {
			return true
		}
	}
	return t.any && revision != 0
}

// parsePrecond reads both headers. If-Match compares strongly, so that a weak tag matches nothing; If-None-Match
// compares weakly, so that W/"7" is as good as "7".
func parsePrecond(h http.Header) (p precond, err error) {
	if v := h["If-Match"]; v != nil {
		if p.match, err = parseTags("If-Match", v, false); err != nil {
			return p, err
		}
	}
	if v := h["If-None-Match"]; v != nil {
		if p.noneMatch, err = parseTags("If-None-Match", v, true); err != nil {
			return p, err
		}
	}
	return p, nil
}

func parseTags(name string, lines []string, weak bool) (tags, error) {
	t := tags{given: true}
	rest := strings.Trim(strings.Join(lines, ","), " \t")
	if rest == "*" {
		t.any = true
		return t, nil
	}
	count := 0
	for rest != "" {
		if rest[0] == ',' || rest[0] == ' ' || rest[0] == '\t' { // empty elements are allowed
			rest = rest[1:]
			continue
		}
		after, isWeak := strings.CutPrefix(rest, "W/")
		tag, behind, ok := cutTag(after)
		if !ok {
			return t, kv.Errorf(kv.Invalid, `%s is not a list of entity tags: put the mod revision in quotes, as in %s: "7"`, name, name)
		}
		if count++; count > tagsMax {
			return t, kv.Errorf(kv.Invalid, "%s has more than %d entity tags", name, tagsMax)
		}
		// "07" is another tag than "7", and no key has the tag "0".
		if n, err := strconv.ParseInt(tag, 10, 64); err == nil && n > 0 && strconv.FormatInt(n, 10) == tag && (weak || !isWeak) {
			t.revisions = append(t.revisions, n)
		}
		rest = behind
	}
	if count == 0 {
		return t, kv.Errorf(kv.Invalid, "%s is empty", name)
	}
	return t, nil
}

// cutTag cuts a quoted tag off s; behind it comes a comma or nothing.
func cutTag(s string) (tag, behind string, ok bool) {
	s, ok = strings.CutPrefix(s, `"`)
	if !ok {
		return "", "", false
	}
	tag, behind, ok = strings.Cut(s, `"`)
	if !ok {
		return "", "", false
	}
	for i := range len(tag) {
		if tag[i] <= ' ' || tag[i] == 0x7f {
			return "", "", false
		}
	}
	behind = strings.TrimLeft(behind, " \t")
	return tag, behind, behind == "" || behind[0] == ','
}

func (p *precond) given() bool { return p.match.given || p.noneMatch.given }

// check decides for a read: 0 to go on, 304, or 412.
func (p *precond) check(revision int64) int {
	if p.match.given && !p.match.has(revision) {
		return http.StatusPreconditionFailed
	}
	if p.noneMatch.given && p.noneMatch.has(revision) {
		return http.StatusNotModified
	}
	return 0
}

// guards returns what the command needs, with the first revision of If-Match; those further on are tried by do.
func (p *precond) guards(key []byte) []kv.Guard {
	if !p.given() {
		return nil
	}
	var out []kv.Guard
	guard := func(relation kv.Relation, revision int64) {
		out = append(out, kv.Guard{Compare: kv.Compare{Key: key, Target: kv.TargetMod, Relation: relation, Num: revision}})
	}
	switch {
	case !p.match.given:
	case p.match.any:
		guard(kv.NotEqual, 0)
	case len(p.match.revisions) == 0:
		guard(kv.Equal, neverARevision)
	default:
		guard(kv.Equal, p.match.revisions[0])
	}
	if p.noneMatch.any {
		guard(kv.Equal, 0)
	}
	for _, r := range p.noneMatch.revisions {
		guard(kv.NotEqual, r)
	}
	return out
}

// neverARevision stands in a guard that cannot hold: the refusal brings the current mod revision, as for any other.
const neverARevision = -1
