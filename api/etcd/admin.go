package etcd

import (
	"context"

	"holdfast/api"
	"holdfast/kv"
)

// replica is what an operator's call needs, or how a node refuses that is none.
func (s *Server) replica(ctx context.Context) (api.Admin, error) {
	if s.opts.Admin != nil {
		if admin := s.opts.Admin(); admin != nil {
			return admin, nil
		}
	}
	return nil, s.refusal(ctx, kv.Errorf(kv.Unsupported, "it is a proxy, or its store is not open yet; ask a member"))
}
