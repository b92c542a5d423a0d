package agent

import (
	"context"
	"runtime/debug"
	"time"

	"holdfast/api"
	"holdfast/config"
	"holdfast/enroll"
	"holdfast/kv"
	"holdfast/transport"
)

// tokenOffice makes, lists and ends join tokens, on a member.
type tokenOffice struct {
	store  enroll.Store
	caHash func() string
	now    func() time.Time
}

// tokens shows the office of this node to the servers, if it has one.
type tokens struct{ a *Agent }

var _ api.Tokens = tokens{}

const (
	// officeWait is how long somebody waits who asks a member that has just been started, as the next line of a script does.
	officeWait = 8 * time.Second
	officeLook = 50 * time.Millisecond
)

// office is this node's, once its store is open. A node that is no member has none.
func (t tokens) office(ctx context.Context) (*tokenOffice, error) {
	ctx, cancel := context.WithTimeout(ctx, officeWait)
	defer cancel()
	look := time.NewTicker(officeLook)
	defer look.Stop()
	for {
		if o := t.a.tokens.Load(); o != nil {
			return o, nil
		}
		if t.a.planned().record.Mode != config.ModeMember {
			return nil, kv.Errorf(kv.Unsupported, "join tokens are made on a member, and this node is a proxy")
		}
		select {
		case <-look.C:
		case <-t.a.done:
			return nil, kv.Errorf(kv.Busy, "the agent is stopping")
		case <-ctx.Done():
			return nil, kv.Errorf(kv.Busy, "join tokens are made once the store is open, and it is not yet: agent status shows how far it is, try again")
		}
	}
}

// Create makes a token.
func (t tokens) Create(ctx context.Context, r api.TokenRequest) (api.CreatedToken, error) {
	o, err := t.office(ctx)
	if err != nil {
		return api.CreatedToken{}, err
	}
	now := o.now().UTC().Truncate(time.Second)
	rec := enroll.TokenRecord{Scope: r.Scope, Expires: now.Add(r.TTL), Uses: r.Uses, Created: now}
	if r.Role != api.TokenRoleAny {
		rec.Role = transport.Role(r.Role)
	}
	made, err := enroll.CreateToken(ctx, o.store, o.caHash(), rec)
	if err != nil {
		return api.CreatedToken{}, err
	}
	return api.CreatedToken{Token: made.Reveal(), ID: made.ID, Expires: rec.Expires}, nil
}

// List lists tokens.
func (t tokens) List(ctx context.Context) ([]api.TokenInfo, error) {
	o, err := t.office(ctx)
	if err != nil {
		return nil, err
	}
	records, err := enroll.Tokens(ctx, o.store)
	if err != nil {
		return nil, err
	}
	all := make([]api.TokenInfo, 0, len(records))
	for _, r := range records {
		role := string(r.Role)
		if role == "" {
			role = api.TokenRoleAny
		}
		all = append(all, api.TokenInfo{ID: r.ID, Role: role, Scope: r.Scope, Expires: r.Expires, Uses: r.Uses, Used: r.Used, Created: r.Created})
	}
	return all, nil
}

// Revoke ends a token.
func (t tokens) Revoke(ctx context.Context, id string) error {
	o, err := t.office(ctx)
	if err != nil {
		return err
	}
	return enroll.RevokeToken(ctx, o.store, id)
}

// buildTime is when this program was built, as far as it knows; no certificate is judged by an earlier time.
func buildTime() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				return t
			}
		}
	}
	return time.Time{}
}
