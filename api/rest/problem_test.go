package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

func TestEveryRefusalOfTheNodeIsAProblem(t *testing.T) {
	n := serve(t)
	for code := kv.Code(1); int(code) < kv.Codes; code++ {
		err := &kv.Error{Code: code, Detail: "what happened and what to do: \"this\""}
		n.between.do = func(context.Context, kv.Command) (kv.Result, error) {
			return kv.Result{}, fmt.Errorf("on the way: %w", err)
		}
		n.between.read = func(context.Context, kv.Query) (kv.Page, error) { return kv.Page{}, err }
		face := api.FaceOf(code)
		for _, r := range []reply{
			n.call("PUT", "/v1/kv/a", "v"), n.call("DELETE", "/v1/kv/a", ""), n.call("DELETE", "/v1/kv/a?prefix", ""),
			n.call("GET", "/v1/kv/a", ""), n.call("GET", "/v1/kv/a?prefix", ""),
		} {
			p := r.refused(t, face.Status, code.String())
			if p["detail"] != err.Detail || p["title"] != face.Title || p["retryable"] != face.Retryable || p["outcome"] != string(face.Outcome) {
				t.Errorf("%v: %v, want what the table says: %+v", code, p, face)
			}
			if has := r.header.Get("Retry-After") != ""; has != (face.RetryAfter > 0) {
				t.Errorf("%v: Retry-After %q", code, r.header.Get("Retry-After"))
			}
			if has := r.header.Get("Allow") != ""; has != (r.status == 405) {
				t.Errorf("%v: Allow %q with status %d", code, r.header.Get("Allow"), r.status)
			}
		}
	}
}

func TestAdviceOfTheErrorGoesBeforeTheTables(t *testing.T) {
	n := serve(t)
	n.between.do = func(context.Context, kv.Command) (kv.Result, error) {
		return kv.Result{}, &kv.Error{Code: kv.NoLeader, Detail: "x", RetryAfter: 2100 * time.Millisecond}
	}
	n.call("PUT", "/v1/kv/a", "v").want(t, 503).wantHeaders(t, map[string]string{"Retry-After": "3"})
}

// A fault of ours is logged whole and told in general: what it says may name paths of the node.
func TestAFaultOfOursIsLoggedAndNotTold(t *testing.T) {
	var log bytes.Buffer
	n := serve(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	n.between.read = func(context.Context, kv.Query) (kv.Page, error) {
		return kv.Page{}, errors.New("open /secret/path: broken")
	}
	p := n.call("GET", "/v1/kv/a", "").refused(t, 500, "internal")
	if strings.Contains(fmt.Sprint(p), "secret") || p["outcome"] != "unknown" {
		t.Errorf("told: %v", p)
	}
	if !strings.Contains(log.String(), "/secret/path") || !strings.Contains(log.String(), "path=/v1/kv/a") {
		t.Errorf("logged: %s", log.String())
	}
}

func TestAClientThatHasLeftIsNotAFault(t *testing.T) {
	var log bytes.Buffer
	n := serve(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	ctx, cancel := context.WithCancel(t.Context())
	n.between.read = func(ctx context.Context, _ kv.Query) (kv.Page, error) {
		cancel()
		return kv.Page{}, &kv.Error{Code: kv.Internal, Err: ctx.Err()}
	}
	w := httptest.NewRecorder()
	n.handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/v1/kv/a", nil))
	n.between.read = func(ctx context.Context, _ kv.Query) (kv.Page, error) { return kv.Page{}, ctx.Err() }
	n.handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/v1/kv/a", nil))
	if log.Len() > 0 {
		t.Errorf("logged: %s", log.String())
	}
	if got := n.handler.metrics.requests[0][clientGone-statusStart].Load(); got != 2 {
		t.Errorf("%d requests counted as 499, want 2", got)
	}
}

func TestUnknownParametersAreRefused(t *testing.T) {
	n := serve(t)
	for _, call := range []string{
		"PUT /v1/kv/a?x", "PUT /v1/kv/a?prefix", "PUT /v1/kv/a?consistency=local", "PUT /v1/kv/a?Write=sync",
		"GET /v1/kv/a?x=1", "GET /v1/kv/a?write=sync", "GET /v1/kv/a?limit=1", "GET /v1/kv/a?keys_only", "GET /v1/kv/a?from_revision=1",
		"GET /v1/kv/a?prefix&x", "GET /v1/kv/a?prefix&on_gap=error", "GET /v1/kv/a?watch&limit=1", "GET /v1/kv/a?watch&consistency=local",
		"GET /v1/kv/a?watch=maybe", "GET /v1/kv/a?prefix&prefix", "GET /v1/kv/a?", "GET /v1/kv/a?=", "GET /v1/kv/a?%zz", "GET /v1/kv/a?a;b",
		"DELETE /v1/kv/a?x", "DELETE /v1/kv/a?prefix=no", "DELETE /v1/kv/a?limit=3",
	} {
		method, path, _ := strings.Cut(call, " ")
		r := n.call(method, path, "")
		if strings.HasSuffix(call, "a?") { // an empty query is none
			r.want(t, 404)
			continue
		}
		r.refused(t, 400, "invalid")
	}
	n.wantEmpty()
}
