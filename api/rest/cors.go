package rest

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"holdfast/api"
)

// origins decides which web pages may call. A request without Origin is no browser's, or one a browser lets no page
// read; a page served by this node itself is at home; any other needs to be listed.
//
// By what name a page was asked for is all that its browser goes by. Whose name has been made to point to this machine (DNS
// rebinding) is at home here too, and sends no Origin with what it reads. So who asks over loopback has to know the machine by a name
// of its own; see strange.
type origins struct {
	any    bool
	listed []string
	names  map[string]bool // of this machine and of the listed ones, in lower case
}

func newOrigins(listed, names []string) origins {
	o := origins{any: slices.Contains(listed, "*"), listed: listed, names: map[string]bool{}}
	for _, name := range names {
		o.names[strings.ToLower(name)] = true
	}
	for _, origin := range listed {
		if u, err := url.Parse(origin); err == nil && u.Host != "" {
			o.names[strings.ToLower(u.Hostname())] = true
		}
	}
	return o
}

// strange reports whether a request that came over loopback, in plaintext, names a host in the internet at the very port it came to. A server
// in front of this node that passes the name on has another port; addresses and names without a dot are nobody's in the internet.
func (o origins) strange(r *http.Request) bool {
	at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok || !at.IP.IsLoopback() || o.any {
		return false
	}
	if c, _ := api.CallerFrom(r.Context()); c.Secure { // a browser has looked for the name in the certificate
		return false
	}
	host, port := r.Host, defaultPort
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = host[:i], host[i+1:]
	}
	if !strings.Contains(host, ".") || port != strconv.Itoa(at.Port) {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	host = strings.ToLower(host)
	return !strings.HasSuffix(host, ".localhost") && !o.names[host]
}

// defaultPort is that of a Host without one.
const defaultPort = "80"

const (
	corsMethods = "GET, HEAD, PUT, DELETE, POST"
	corsHeaders = "Accept, Cache-Control, Content-Type, If-Match, If-None-Match, Last-Event-ID, Prefer, Holdfast-Min-Revision"
	corsExpose  = "Age, Allow, Cache-Status, ETag, Location, Preference-Applied, Retry-After, Holdfast-Age, Holdfast-Consistency, Holdfast-Epoch, Holdfast-Expires, Holdfast-Lease, Holdfast-Op, Holdfast-Pending, Holdfast-Revision, Holdfast-Source, Holdfast-State"
	corsMaxAge  = "600" // seconds a browser may remember the answer to a preflight
)

// admit refuses foreign pages, and answers the preflight of those that may call: then the request is done.
func (o origins) admit(w http.ResponseWriter, r *http.Request) (preflight bool, err error) {
	if len(o.listed) > 0 {
		w.Header().Add("Vary", "Origin")
	}
	if o.strange(r) {
		return false, errHost(r.Host)
	}
	given := r.Header["Origin"]
	if given == nil {
		return false, nil
	}
	origin := given[0]
	if atHome(origin, r.Host) {
		return false, nil
	}
	if len(given) > 1 || !o.any && !slices.Contains(o.listed, origin) {
		return false, errOrigin(strings.Join(given, ", "))
	}
	header := w.Header()
	header.Set("Access-Control-Allow-Origin", origin)
	if r.Method != http.MethodOptions || r.Header["Access-Control-Request-Method"] == nil {
		header.Set("Access-Control-Expose-Headers", corsExpose)
		return false, nil
	}
	header.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	header.Set("Access-Control-Allow-Methods", corsMethods)
	header.Set("Access-Control-Allow-Headers", corsHeaders)
	header.Set("Access-Control-Max-Age", corsMaxAge)
	w.WriteHeader(http.StatusNoContent)
	return true, nil
}

// Guard is h for those who may call: web pages are refused, and preflights answered, as at /v1.
func (h *Handler) Guard(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		preflight, err := h.origins.admit(w, r)
		if err != nil {
			h.refuse(w, r, err)
		}
		if !preflight && err == nil {
			inner.ServeHTTP(w, r)
		}
	})
}

// atHome reports whether an origin names the host the request was sent to. The scheme is left out of it: behind a
// server that ends TLS it is not known here.
func atHome(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}
