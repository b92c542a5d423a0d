package etcd

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast/kv"
)

var discard = slog.New(slog.DiscardHandler)

// etcdErrors are the errors of etcd's servers that the table may stand for.
var etcdErrors = []error{
	rpctypes.ErrGRPCKeyNotFound, rpctypes.ErrGRPCTooManyOps, rpctypes.ErrGRPCDuplicateKey, rpctypes.ErrGRPCCompacted,
	rpctypes.ErrGRPCFutureRev, rpctypes.ErrGRPCNoSpace, rpctypes.ErrGRPCLeaseNotFound, rpctypes.ErrGRPCLeaseExist,
	rpctypes.ErrGRPCLeaseTTLTooLarge, rpctypes.ErrGRPCRequestTooLarge, rpctypes.ErrGRPCRequestTooManyRequests,
	rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCStopped,
	rpctypes.ErrGRPCTimeout, rpctypes.ErrGRPCCorrupt,
	rpctypes.ErrGRPCAuthNotEnabled, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCAuthFailed, rpctypes.ErrGRPCInvalidAuthMgmt,
	rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCUserNotFound, rpctypes.ErrGRPCUserAlreadyExist, rpctypes.ErrGRPCRoleEmpty,
	rpctypes.ErrGRPCRoleNotFound, rpctypes.ErrGRPCRoleAlreadyExist, rpctypes.ErrGRPCRoleNotGranted,
	rpctypes.ErrGRPCPermissionNotGiven, rpctypes.ErrGRPCPermissionNotGranted, rpctypes.ErrGRPCRootUserNotExist,
	rpctypes.ErrGRPCRootRoleNotExist,
}

func TestTextsThatAreOursSayWhatWasWrong(t *testing.T) {
	s := &Server{opts: Options{Log: discard}}
	s.stopping, s.stop = context.WithCancel(t.Context())
	defer s.stop()
	err := s.refusal(t.Context(), kv.Errorf(kv.Unsupported, "leases are not supported"))
	if st := status.Convert(err); st.Code() != codes.Unimplemented || !strings.HasSuffix(st.Message(), ": leases are not supported") {
		t.Errorf("got %v", err)
	}
	err = s.refusal(t.Context(), context.DeadlineExceeded) // what is no kv.Error
	if st := status.Convert(err); st.Code() != codes.Internal || st.Message() != "holdfast: internal fault" {
		t.Errorf("a fault of ours: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	refused(t, s.refusal(gone, &kv.Error{Code: kv.OutcomeUnknown}), rpctypes.ErrGRPCCanceled)
}

func TestTextsOfTheTableAreEtcds(t *testing.T) {
	known := map[string]codes.Code{}
	for _, err := range etcdErrors {
		known[status.Convert(err).Message()] = status.Code(err)
	}
	s := &Server{opts: Options{Log: discard}}
	for c := kv.Code(1); int(c) < kv.Codes; c++ {
		st := status.Convert(s.refusal(t.Context(), &kv.Error{Code: c}))
		if !strings.HasPrefix(st.Message(), "etcdserver: ") {
			continue
		}
		if code, ok := known[st.Message()]; !ok || code != st.Code() {
			t.Errorf("%v looks like %v %q; etcd knows the text: %v, with %v", c, st.Code(), st.Message(), ok, code)
		}
	}
}
