package compat

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Two right answers differ in what each server makes up: ids, addresses, sizes, times, the place in its own log. These
// are replaced, each by what it is, before answers are compared; nothing else is.

// ids names what looks like an id (cluster, member, lease; decimal or hexadecimal) by the order in which a side's
// answers mention it, so that it still counts whether two answers mean the same one.
type ids struct {
	names map[uint64]string
}

// An id is random in 64 bits, or in 63 for leases, so that a shorter number is something else.
var idPattern = regexp.MustCompile(`\b([0-9]{17,20}|[0-9a-f]{13,16})\b`)

func (n *ids) name(text string) string {
	return idPattern.ReplaceAllStringFunc(text, func(s string) string {
		base := 10
		if len(s) <= 16 {
			base = 16
		}
		id, err := strconv.ParseUint(s, base, 64)
		if err != nil {
			return s
		}
		if n.names == nil {
			n.names = map[uint64]string{}
		}
		if n.names[id] == "" {
			n.names[id] = fmt.Sprintf("<id %d>", len(n.names)+1)
		}
		return n.names[id]
	})
}

type replacement struct {
	pattern *regexp.Regexp
	by      string
}

func replacements(pairs ...string) (list []replacement) {
	for pair := range slices.Chunk(pairs, 2) {
		list = append(list, replacement{regexp.MustCompile(pair[0]), pair[1]})
	}
	return list
}

// everywhere is replaced in each answer, in this order.
var everywhere = replacements(
	`"ts":("[^"]*"|[0-9.]+)`, `"ts":"<time>"`,
	`"took":[0-9.]+`, `"took":"<time>"`,
	`client-[0-9a-f-]{36}`, `<client>`,
	`"caller":"[^"]*"`, `"caller":"<line>"`,
	`0x[0-9a-f]{8,}`, `<pointer>`,
	`LocalAddr: '[0-9.:]+'`, `LocalAddr: '<port>'`,
	`"(cluster_id|member_id)":[0-9]+`, `"$1":<id>`,
	`"(ClusterID|MemberID)" : [0-9a-f]+`, `"$1" : <id>`,
	`"(raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|dbSizeQuota|hash)":[0-9]+`, `"$1":<n>`,
	`"(RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|DBSizeQuota|StorageVersion|Hash)" : \S+`, `"$1" : <n>`,
	`"(version|storageVersion)":"[0-9.]+"`, `"$1":"<version>"`,
	`"Version" : "[^"]*"`, `"Version" : "<version>"`,
	`took = [0-9.]+[a-zµ]+`, `took = <time>`,
	`"(took|Took)"( : |:)"[^"]*"`, `"$1"$2"<time>"`,
	`[─-]{3,}`, `---`,
)

// progressBar is what etcdctl draws again and again on one line.
const progressBar = `\r?[0-9]+ / [0-9]+ \[[^\n]*?p/s( [0-9ms]+)?\n?`

// by command: what stands in places that only the command tells.
var byCommand = map[string][]replacement{
	"endpoint status": replacements(
		`(<addr>[ ,|│]+)[0-9a-f]+`, `$1<id>`, `"leader":[0-9]+`, `"leader":<id>`, `"Leader" : [0-9]+`, `"Leader" : <id>`,
		`"storageVersion":"[^"]*",`, ``, `(<addr>[ ,|│]+<id>[ ,|│]+[0-9.]+,) [0-9.]*,`, `$1 ,`, `(<addr>[ │]+<id>[ │]+[0-9.]+ +│)[ 0-9.]*│`, `$1 │`,
		`[0-9.]+ [kMG]?B`, `<size>`, `[0-9]+%`, `<n>%`, `\b3\.[0-9]+\.[0-9]+\b`, `<version>`,
		// term, index, applied index
		`(true|false)([ ,|│]+)(true|false)([ ,|│]+)[0-9]+[ ,|│]+[0-9]+[ ,|│]+[0-9]+`, `$1$2$3$4<n>`, ` +`, ` `),
	"endpoint health": replacements(`[0-9.]+(ms|µs|s)\b`, `<time>`, ` +`, ` `),
	"endpoint hashkv": replacements(`(<addr>)([ ,|│]+)[0-9]+`, `$1$2<hash>`, ` +`, ` `),
	// Both were named m. A name that is a node's id, as members have it that were given none, counts as one.
	"member list": replacements(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`, `m`, `(?:https?|quic)://<(addr|peer)>`, `<$1>`,
		`(?m)^([│| ]*)[0-9a-f]+([ ,|│]+started)`, `$1<id>$2`, `"ID":[0-9]+`, `"ID":<id>`, `"ID" : [0-9]+`, `"ID" : <id>`,
		`"peerURLs":\["<peer>"\],`, ``, `"PeerURL" : .*
`, ``, `<peer>`, ``, ` +`, ` `),
	// How fast it was is no difference.
	"check perf": replacements(progressBar, ``, `(?m)^(PASS: |FAIL: )?(Throughput|Slowest request|Stddev) .*$`, `$2`, `(?m)^(PASS|FAIL)$`, `PASS or FAIL`,
		`[0-9]+(\.[0-9]+)?%?`, `<n>`, ` +`, ` `),
	"check datascale":  replacements(progressBar, ``, `[0-9]+(\.[0-9]+)?`, `<n>`),
	"snapshot save":    replacements(`Server version .*\n`, ``, `,"etcd-version":"[^"]*"`, ``, `"took":"[^"]*"|took [^ ,]*`, `took <time>`, `[0-9.]+ [kMG]?B`, `<size>`),
	"lease list":       replacements(`\b[0-9a-f]{16}\b`, `<lease>`, `"id":[0-9]+`, `"id":<lease>`, `"ID" : [0-9]+`, `"ID" : <lease>`), // by time of expiry, which no two servers agree on
	"lease timetolive": replacements(`remaining\([0-9]+s\)`, `remaining(<n>s)`, `"ttl":[0-9]+`, `"ttl":<n>`, `"TTL" : [0-9]+`, `"TTL" : <n>`),
	"defrag":           replacements(`took [0-9.]+(ms|µs|s)\b`, `took <time>`),
}

// normal is an answer without what is the side's own.
func (s *side) normal(path, text string) string {
	own := []string{s.addr, "<addr>", s.peer, "<peer>", s.dir, "<data>"}
	for _, m := range s.members {
		own = append(own, m.addr, "<addr>", m.peer, "<peer>")
	}
	if s.out != "" {
		own = append(own, s.out, "<dir>")
	}
	if s.dest != nil {
		own = append(own, s.dest.addr, "<dest>")
	}
	text = strings.NewReplacer(own...).Replace(text)
	for _, r := range slices.Concat(everywhere, byCommand[path]) {
		text = r.pattern.ReplaceAllString(text, r.by)
	}
	if path == "lease timetolive" {
		text = sortKeys(text)
	}
	return s.ids.name(text)
}

// etcd lists the keys of a lease in no order.
var keyLists = replacements(`attached keys\(\[(.*)\]\)`, ` `, `"keys":\[(.*)\]`, `,`, `(?s)("Key" : .*)`, "\n")

func sortKeys(text string) string {
	for _, l := range keyLists {
		if m := l.pattern.FindStringSubmatchIndex(text); m != nil {
			keys := strings.Split(strings.TrimSuffix(text[m[2]:m[3]], "\n"), l.by)
			slices.Sort(keys)
			text = text[:m[2]] + strings.Join(keys, l.by) + text[m[3]:]
		}
	}
	return text
}
