package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"holdfast/auth"
	"holdfast/client"
	"holdfast/enroll"
	"holdfast/member"
	"holdfast/proxy"
)

// This file is how a proxy comes to judge who may do what: see auth.Mirror.

// policyFile, in the folder of a proxy, is the policy as the cluster has told it last.
const policyFile = "policy"

// policyWait is how long a proxy that has never heard a policy waits for it before its cache begins.
const policyWait = 3 * time.Second

// openMirror returns the policy of a proxy: that of the member it was until now, or what it kept.
func (a *Agent) openMirror(up *client.Client, from proxy.Upstream) (*auth.Mirror, error) {
	path := a.dir.join(proxyName, policyFile)
	o := auth.MirrorOptions{
		Node:       a.planned().node.String(),
		Ask:        up.Read,
		Keep:       func(content []byte) error { return writeFile(path, content) },
		Clock:      bootTime,
		Now:        a.judgedTime,
		MaxOffline: a.cfg.Auth.MaxOffline,
		Log:        a.opts.Log,
	}
	if was, ok := from.(rounds); ok {
		o.From = was.Policy()
	}
	if o.From == nil {
		var err error
		if o.Kept, err = os.ReadFile(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, storageError(err)
		}
	}
	m := auth.NewMirror(o)
	a.mirror.Store(m)
	return m, nil
}

// tellPolicies has the nodes told when the policy has changed.
func tellPolicies(ctx context.Context, m *member.Member, ca *enroll.Authority) {
	for {
		changed := m.PolicyChanged()
		select {
		case <-changed:
			ca.Tell()
		case <-ctx.Done():
			return
		}
	}
}
