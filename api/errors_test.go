package api

import (
	"net/http"
	"strings"
	"testing"

	"holdfast/kv"
)

func TestEveryCodeHasACompleteRow(t *testing.T) {
	for c := kv.Code(1); int(c) < kv.Codes; c++ {
		f := FaceOf(c)
		if f.Status < 400 || f.Status > 599 || http.StatusText(f.Status) == "" {
			t.Errorf("%v: status %d is no error of HTTP", c, f.Status)
		}
		if f.Title == "" || f.Text == "" {
			t.Errorf("%v: title %q, text %q: want both", c, f.Title, f.Text)
		}
		if f.Outcome != OutcomeNone && f.Outcome != OutcomeUnknown {
			t.Errorf("%v: outcome %q", c, f.Outcome)
		}
		if f.GRPC == grpcOK || f.GRPC > grpcUnauthenticated {
			t.Errorf("%v: gRPC code %d is no error", c, f.GRPC)
		}
		if !strings.HasPrefix(f.Text, "etcdserver: ") && !strings.HasPrefix(f.Text, "holdfast: ") {
			t.Errorf("%v: gRPC text %q says not whose it is", c, f.Text)
		}
		if strings.HasPrefix(c.String(), "code-") {
			t.Errorf("code %d has no name", c)
		}
	}
}

func TestTitlesAndNamesTellCodesApart(t *testing.T) {
	titles, names := map[string]kv.Code{}, map[string]kv.Code{}
	for c := kv.Code(0); int(c) < kv.Codes; c++ {
		if other, taken := titles[FaceOf(c).Title]; taken {
			t.Errorf("%v and %v share the title %q", c, other, FaceOf(c).Title)
		}
		if other, taken := names[c.String()]; taken {
			t.Errorf("codes %d and %d share the name %q", c, other, c)
		}
		titles[FaceOf(c).Title], names[c.String()] = c, c
	}
}

// A gRPC client tells conditions apart by code and text. Two codes may share both only where etcd has one condition
// for what we tell apart.
func TestGRPCTextsTellCodesApart(t *testing.T) {
	shared := map[string]bool{
		"etcdserver: no leader":         true, // no leader here, or lost what is above
		"etcdserver: too many requests": true, // of this client, or of all together
	}
	seen := map[string]kv.Code{}
	for c := kv.Code(1); int(c) < kv.Codes; c++ {
		text := FaceOf(c).Text
		if other, taken := seen[text]; taken && !shared[text] {
			t.Errorf("%v and %v share the text %q", c, other, text)
		}
		seen[text] = c
	}
}

func TestOnlyOutcomesThatAreKnownSayNone(t *testing.T) {
	for c := kv.Code(1); int(c) < kv.Codes; c++ {
		want := OutcomeNone
		if c == kv.OutcomeUnknown || c == kv.Internal {
			want = OutcomeUnknown
		}
		if got := FaceOf(c).Outcome; got != want {
			t.Errorf("%v: outcome %q, want %q", c, got, want)
		}
		if FaceOf(c).Retryable && FaceOf(c).Outcome == OutcomeUnknown {
			t.Errorf("%v: retryable though the outcome is unknown", c)
		}
		if FaceOf(c).RetryAfter > 0 && !FaceOf(c).Retryable {
			t.Errorf("%v: says when to retry what is not retryable", c)
		}
	}
}

// The statuses that the contract names.
func TestStatusesOfTheContract(t *testing.T) {
	for c, want := range map[kv.Code]int{
		kv.Invalid: 400, kv.Unauthenticated: 401, kv.PermissionDenied: 403, kv.KeyNotFound: 404, kv.ReadOnlyNode: 405,
		kv.Compacted: 410, kv.PreconditionFailed: 412, kv.TooLarge: 413, kv.Reused: 422, kv.RateLimited: 429,
		kv.Unsupported: 501, kv.NoLeader: 503, kv.UpstreamUnavailable: 503, kv.StalenessExceeded: 503, kv.AuthStale: 503,
		kv.Stopping: 503, kv.Busy: 503, kv.OutcomeUnknown: 504, kv.NotCached: 504, kv.RevisionTimeout: 504, kv.NoSpace: 507,
	} {
		if got := FaceOf(c).Status; got != want {
			t.Errorf("%v: status %d, want %d", c, got, want)
		}
	}
}

func TestCodeOfANewerNodeLooksLikeAFaultOfOurs(t *testing.T) {
	if got := FaceOf(kv.Code(kv.Codes)); got != FaceOf(kv.Internal) {
		t.Errorf("unknown code looks like %+v", got)
	}
}
