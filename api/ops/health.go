package ops

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"holdfast/api"
)

// check is one thing that may be asked of a node.
type check struct {
	name   string
	ok     bool
	detail string // why not, or what it stands on
}

// checks lists everything that is known, in the order it is shown. Only "ready" is required of every node: one without
// uplink or quorum serves what it has.
func checks(s api.Status) []check {
	ready := check{"ready", s.Ready, s.State}
	if !s.Ready && s.Reason != "" {
		ready.detail = s.State + ": " + s.Reason
	}
	return []check{ready, quorum(s), uplink(s)}
}

// quorum is what a member sees of it. Of a proxy it is that its uplink works: it asks the cluster all the time.
func quorum(s api.Status) check {
	switch {
	case s.Member == nil:
		c := uplink(s)
		return check{"quorum", c.ok, c.detail}
	case s.Member.LogHeldSeconds > 0:
		return check{"quorum", false, fmt.Sprintf("the disk has held back a write of the raft log for %.1f s", s.Member.LogHeldSeconds)}
	case s.Member.Leader == "":
		return check{"quorum", false, "there is no leader at present"}
	}
	return check{"quorum", true, "leader " + s.Member.Leader}
}

// uplink holds if what this node forwards arrives. There is nothing above a member: there a quorum stands for it.
func uplink(s api.Status) check {
	switch {
	case s.Member != nil:
		c := quorum(s)
		return check{"uplink", c.ok, c.detail}
	case s.Proxy == nil:
		return check{"uplink", false, "no uplink is reported"}
	case !s.Proxy.Joined:
		return check{"uplink", false, because("this node has not joined its cluster yet", s.Proxy.UplinkError)}
	case s.Proxy.UplinkLost && s.Proxy.Upstream == "":
		return check{"uplink", false, because("not connected", s.Proxy.UplinkError)}
	case s.Proxy.UplinkLost:
		return check{"uplink", false, because("nothing comes back from "+s.Proxy.Upstream, s.Proxy.UplinkError)}
	}
	return check{"uplink", true, "connected to " + s.Proxy.Upstream}
}

func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// readyz is 200 when the node serves, which it does while offline, and 503 with the reason while it does not. ?require
// names what else must hold: quorum, or uplink, which on a member is the same. ?verbose lists every check.
func readyz(w http.ResponseWriter, r *http.Request, s api.Status) {
	query := r.URL.Query()
	all := checks(s)
	required := []string{"ready"}
	for _, names := range query["require"] {
		for name := range strings.SplitSeq(names, ",") {
			if !slices.ContainsFunc(all, func(c check) bool { return c.name == name }) {
				plain(w, http.StatusBadRequest)
				fmt.Fprintf(w, "require=%q is not known; it is one of quorum and uplink\n", name)
				return
			}
			required = append(required, name)
		}
	}
	failed := slices.DeleteFunc(slices.Clone(all), func(c check) bool { return c.ok || !slices.Contains(required, c.name) })
	status := http.StatusOK
	if len(failed) > 0 {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	plain(w, status)
	switch {
	case isSet(query, "verbose"):
		list(w, all, required)
	case len(failed) == 0:
		fmt.Fprintln(w, "ok")
	default:
		for _, c := range failed {
			fmt.Fprintf(w, "%s: %s\n", c.name, c.detail)
		}
	}
}

func list(w http.ResponseWriter, all []check, required []string) {
	for _, c := range all {
		mark := "[+]"
		if !c.ok {
			mark = "[-]"
		}
		note := ""
		if !slices.Contains(required, c.name) {
			note = " (not required)"
		}
		fmt.Fprintf(w, "%s%s %s%s\n", mark, c.name, c.detail, note)
	}
}

func isSet(query url.Values, name string) bool {
	v, ok := query[name]
	return ok && v[0] != "0" && v[0] != "false"
}

// health answers as etcd's does, for balancers and scripts that ask it: healthy is a node that serves, sees a leader and
// takes writes. ?serializable asks for reads of its own state only, ?exclude=NOSPACE does not mind refused writes.
func health(w http.ResponseWriter, r *http.Request, s api.Status) {
	query := r.URL.Query()
	reason := ""
	switch {
	case !s.Ready:
		reason = "NOT READY: " + s.State
	case s.Member == nil || isSet(query, "serializable"):
	case s.Member.Leader == "", s.Member.LogHeldSeconds > 0: // whoever it was: this member hears nobody now
		reason = "RAFT NO LEADER"
	case s.Member.WritesRefused != "" && !slices.Contains(query["exclude"], "NOSPACE"):
		reason = "ALARM NOSPACE"
	}
	type body struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}
	if reason != "" {
		reply(w, http.StatusServiceUnavailable, body{"false", reason})
		return
	}
	reply(w, http.StatusOK, body{Health: "true"})
}
